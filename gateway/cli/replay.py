"""`stockade audit replay`: what runs it is in `gateway.replay`."""

from gateway.replay.verbs import run

__all__ = ["run"]
