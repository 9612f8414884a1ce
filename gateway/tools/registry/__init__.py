"""`stockade models`: versions, evidence, and the layouts that other tools use."""
