"""Payload keys, erasure and holds."""
