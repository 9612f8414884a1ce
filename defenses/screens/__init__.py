"""Screens: evidence (S1), trigger (S6), and the inspection of bundles."""
