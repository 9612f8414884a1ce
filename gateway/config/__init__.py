"""`stockade.yaml`: its model, what can be wrong with it, units and profiles, and YAML with line numbers."""
