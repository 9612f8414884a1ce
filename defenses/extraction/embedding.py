"""Embeddings that are given away: a rotation of each tenant's own.

Each tenant gets every embedding turned by one secret orthogonal matrix, drawn evenly from all of them (Haar; Stewart
1980) by a keyed hash of the tenant's name. Lengths, angles and distances stay as they are, so all that a tenant does
with its embeddings works as before. Those of two tenants, or of one tenant and a stolen encoder that was trained on
another's, do not fit together.
What it does not do: two tenants that ask the *same* inputs can find the turn between them (Procrustes) from about as
many common inputs as the embedding has dimensions. That is a cost, and a repeat across tenants that can be seen.

See Dubinski et al., "Bucks for Buckets (B4B): Active Defenses Against Stealing Encoders" (NeurIPS 2023,
arXiv 2310.08571). Pure: the key is an argument, and nothing is drawn from elsewhere.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from defenses.errors import EvidenceInvalid, RuleInvalid

WIDTH_MAX: Final = 4_096
KEY_BYTES_MIN: Final = 16


def rotation_for(key: bytes, tenant: str, width: int) -> NDArray[np.float64]:
    """Return a tenant's orthogonal matrix, float64 (width, width); the same for the same key and name, everywhere.

    RuleInvalid for a key below KEY_BYTES_MIN bytes or a width outside [2, WIDTH_MAX].
    """
    if len(key) < KEY_BYTES_MIN:
        raise RuleInvalid("key", f"{len(key)} bytes; {KEY_BYTES_MIN} or more wanted")
    if not 2 <= width <= WIDTH_MAX:
        raise RuleInvalid("width", f"{width}: outside [2, {WIDTH_MAX}]")
    square = _normals(key, f"rotation\0{width}\0{tenant}", width * width).reshape(width, width)
    orthogonal, triangle = np.linalg.qr(square)
    return np.asarray(orthogonal * np.sign(np.diag(triangle)))  # without the signs it would not be even


def rotate(embeddings: NDArray[Any], rotation: NDArray[np.float64]) -> NDArray[Any]:
    """Turn float (rows, width) into a new array of the same dtype; EvidenceInvalid for another shape."""
    if embeddings.ndim != 2 or embeddings.shape[1] != len(rotation) or embeddings.dtype.kind != "f":
        raise EvidenceInvalid("embedding", f"{embeddings.dtype}{embeddings.shape}: (rows, {len(rotation)}) wanted")
    # Not one matrix product: its rounding depends on the rows beside, and a row has to be answered the same alone.
    turned = np.einsum("rw,wv->rv", embeddings.astype(np.float64), rotation)
    return np.asarray(turned, embeddings.dtype)


def _normals(key: bytes, label: str, count: int) -> NDArray[np.float64]:
    """Draw normal numbers by a keyed hash (Box and Muller 1958): NumPy's generators may change between versions."""
    digest = hashlib.shake_256(len(key).to_bytes(4, "big") + key + label.encode("utf-8", "surrogatepass"))
    pairs = -(-count // 2)
    words = np.frombuffer(digest.digest(16 * pairs), "<u8").reshape(2, pairs)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[0])), 2.0 * np.pi * uniform[1]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
