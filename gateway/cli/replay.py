"""`stockade audit replay`: what runs it is in `gateway.tools.replay`."""
