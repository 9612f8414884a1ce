"""Copies of a log: object stores, mirrors, restoration."""
