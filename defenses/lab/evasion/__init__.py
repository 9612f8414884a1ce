"""Evasion: inputs that a model gets wrong, made with its weights or by asking."""
