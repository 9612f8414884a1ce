"""`stockade check`: validates a configuration without starting it."""
