"""Verification of a log, offline."""
