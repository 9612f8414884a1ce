"""Releases of model versions: canaries and shadows over time."""
