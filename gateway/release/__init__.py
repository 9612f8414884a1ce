"""Which version of a model answers whom, and how a new one comes into its place."""
