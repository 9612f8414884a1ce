"""Which version answers a principal: weighted rendezvous hashing, so that nobody moves who need not.

Each version draws a number for each principal, from a hash of the two; it is stretched by the version's weight, and the
least wins (Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005: -ln(u) / w is exponential with
rate w, so a version wins with probability w / sum of weights). From this follows, and the tests hold it:
- the same principal gets the same version, in every worker, after every restart, whatever the policy's revision;
- a principal goes from one version to another only if the other's weight grew in proportion to the first's. Between two
  versions the share that moves is exactly the share that the weights move; cumulative intervals would, with three
  versions, also move principals between versions whose weights did not change.

Pure. It draws among principals and knows no rights. It is no secret: who knows the salt knows which version he will
get, and gains nothing by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

_BITS = 53  # a float64 holds them without rounding


@dataclass(frozen=True, slots=True)
class Split:
    """Versions with their weights, all above 0. `prefixes` holds what is hashed before the principal's name."""

    weights: tuple[tuple[str, float], ...]
    prefixes: tuple[bytes, ...]

    def version_for(self, principal: str) -> str:
        """Return the version that answers this principal."""
        if len(self.weights) == 1:
            return self.weights[0][0]
        name = principal.encode()
        best, least = "", math.inf
        for (version, weight), prefix in zip(self.weights, self.prefixes, strict=True):
            stretched = -math.log(draw(prefix + name)) / weight
            if stretched < least:
                best, least = version, stretched
        return best


def split_of(model: str, weights: Mapping[str, float], salt: str) -> Split:
    """Return the split of a model. Versions without weight are left out; at least one has to have some."""
    kept = tuple((version, weight) for version, weight in sorted(weights.items()) if weight > 0)
    if not kept:
        raise ValueError(f"no version of {model} has a weight")
    return Split(kept, tuple(framed(salt, model, version) for version, _ in kept))


def framed(*parts: str) -> bytes:
    """Return the parts with their lengths before them, so that no two lists of parts are the same bytes."""
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)


def draw(data: bytes) -> float:
    """Return a number in (0, 1] that the bytes decide."""
    number = int.from_bytes(blake2b(data, digest_size=8).digest(), "big") >> (64 - _BITS)
    return (number + 1) * 2.0**-_BITS
