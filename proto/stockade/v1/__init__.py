"""Stockade's own services."""
