"""Keeps the record and brings it back: the audit log, metrics, logs, backup and recovery."""
