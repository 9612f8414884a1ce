"""`stockade audit replay`: what runs it is in `gateway.tools.replay`."""

from gateway.tools.replay.verbs import run

__all__ = ["run"]
