"""Against poisoned data and the models that were trained on it."""
