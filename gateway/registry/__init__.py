"""`stockade models`: versions of models, evidence about them, and the layouts that other tools keep them in."""
