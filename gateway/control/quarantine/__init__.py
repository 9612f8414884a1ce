"""Requests that a screen flagged or refused, and their review."""
