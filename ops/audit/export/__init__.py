"""The log as Parquet, and SQL over it."""
