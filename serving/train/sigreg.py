"""SIGReg: how far a batch of embeddings is from a standard normal, along random directions (LeJEPA, arXiv 2511.08544).

A joint-embedding loss alone is least where every embedding is the same. SIGReg stands against that: by Cramer and Wold
a distribution is normal where all its projections are, so the batch is projected on directions drawn anew each step,
and each projection's characteristic function is held against the normal's (Epps and Pulley 1983):

    rows x integral from 0 to 3 of [(mean cos ts - exp(-t^2/2))^2 + (mean sin ts)^2] exp(-t^2/2) dt

by 17 trapezoid knots, averaged over the directions. Linear in rows, directions and width; no teacher, no stop-gradient.
For a standard normal its expectation is 0.53 whatever the number of rows; for a collapsed batch it grows with them.
"""

from __future__ import annotations

import torch
from torch import Tensor

KNOTS = 17
END = 3.0


def unit_directions(width: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` unit vectors, (width, count), uniform on the sphere."""
    directions: Tensor = torch.randn(width, count, generator=generator)
    lengths: Tensor = directions.norm(dim=0, keepdim=True)
    return directions / lengths


def sigreg(embeddings: Tensor, directions: Tensor) -> Tensor:
    """Return the penalty of embeddings (rows, width) along unit directions (width, count): a scalar, not negative."""
    knots = torch.linspace(0.0, END, KNOTS)
    normal = torch.exp(-0.5 * knots.square())
    step = END / (KNOTS - 1)
    weights = torch.full((KNOTS,), step)
    weights[0] = weights[-1] = step / 2
    angles = (embeddings @ directions).unsqueeze(-1) * knots
    apart = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
    penalties: Tensor = len(embeddings) * (apart @ (weights * normal))
    return penalties.mean()
