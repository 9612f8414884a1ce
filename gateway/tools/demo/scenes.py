"""What the demo's client sends: a scene for the honest, the foreign, the stranger, the greedy, the careless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

from gateway.tools.samples import sample_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOREIGN_ROWS = 100
MADE_UP = "kiosk-7-a.bm90LXRoZS1zZWNyZXQtb2YtYW55Ym9keQ"
PIXEL_MAX = np.float32(255)


@dataclass(frozen=True, slots=True)
class Scene:
    """Images that one client sends, one a request. `key` names the client of `stockade init`; None sends none."""

    name: str
    title: str
    images: NDArray[Any]
    key: str | None = "kiosk-7"
    secret: str | None = None
    in_flight: int = 32
    labels: NDArray[Any] | None = None
    foreign: bool = False


def scenes(rng: np.random.Generator) -> list[Scene]:
    """Return the scenes in the order in which they are played."""
    sample = load_file(sample_images())
    products = as_floats(sample["images"])
    few = products[:FOREIGN_ROWS]
    digits = load_file(sample_images().with_name("digits-200.safetensors"))["images"]
    shuffled = rng.permuted(few.reshape(len(few), -1), axis=1).reshape(few.shape)
    noise = rng.random(few.shape, dtype=np.float32)
    return [
        Scene("products", "1,000 product images", products, labels=sample["labels"]),
        Scene("digits", "handwritten digits", as_floats(digits), foreign=True),
        Scene("noise", "noise", noise, foreign=True),
        Scene("inverted", "inverted products", 1 - few, foreign=True),
        Scene("shuffled", "shuffled pixels", shuffled, foreign=True),
        Scene("no-key", "a stranger without a key", few[:20], key=None),
        Scene(
            "wrong-key",
            "a stranger with a made-up key",
            few[:20],
            secret=MADE_UP,
        ),
        Scene("greedy", "a client over its limit", few[:60], key="batch-1", in_flight=4),
        Scene("not-a-number", "images with NaN", spoilt(few[:20], np.nan)),
        Scene("out-of-range", "images brighter than white", spoilt(few[:20], 2.0)),
        Scene("wrong-shape", "images of the wrong shape", few[:20, :27]),
        Scene("wrong-type", "images of the wrong type", few[:20].astype(np.float64)),
    ]


def as_floats(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images in the range that the model declares, 0 to 1."""
    return images.astype(np.float32) / PIXEL_MAX


def spoilt(images: NDArray[np.float32], value: float) -> NDArray[np.float32]:
    """Return the images with one pixel set to `value`."""
    copy = images.copy()
    copy[:, 14, 14] = value
    return copy
