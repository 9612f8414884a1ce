"""`stockade demo`: the whole job for real, in a minute, with an unmodified client in a process of its own.

Makes a gateway's directory, serves from it over TLS, lets `triton_client` send honest images, foreign images, wrong
keys, too much and nonsense, stops the gateway, verifies its log, flips one byte in a copy and shows that this is found.
"""

from gateway.tools.demo.play import run

__all__ = ["run"]
