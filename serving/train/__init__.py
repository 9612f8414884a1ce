"""Training recipes: raw data to a signed bundle. Needs the `train` extra; nothing on the serving path imports it."""
