"""Reading a published log."""
