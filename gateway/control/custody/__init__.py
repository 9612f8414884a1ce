"""Stored payloads: who may read one, erasure of a subject, legal holds."""
