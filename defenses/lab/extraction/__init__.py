"""Stealing a model by asking it: where the queries come from, the copy that is trained, and what all of that costs."""
