"""Incidents, read from the audit log: timeline, register, report."""
