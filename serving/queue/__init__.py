"""Batching: who goes next, and when a batch closes."""
