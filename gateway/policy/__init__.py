"""`policy.yaml`: its model, what can be wrong with it, its signature, and how the pipeline gets it."""
