"""`stockade check`: what can be known about a configuration without starting it."""
