"""Labels under review, and what they say of each model version."""
