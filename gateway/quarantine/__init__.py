"""Requests that screens flagged or refused, waiting for somebody to look at them."""
