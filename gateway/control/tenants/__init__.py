"""Isolation of tenants and principals by an operator."""
