"""Witnesses: cosigning a log's checkpoints."""
