"""Letters, scribbles, textures, patchwork: what combinations of evidence are compared on. For development only.

Nothing is trained on them, fitted to them or calibrated with them, and no figure about them is published as a result:
choices are made on them so that none has to be made on the kinds that are reported, in `foreign`. The two share no
kind and no source. All are uint8 (n, 28, 28), and the same seed draws the same.

- letters: A to Z and a to z in the twelve faces of DejaVu that come with matplotlib, white on black as products are,
  each in four sizes, turns and places. No digits: handwritten digits are reported on.
- scribbles: one to three curves drawn with a round pen.
- textures: random fields from cloudy to slow gradients, over the whole range of greys.
- patchwork: products in 49 tiles of 4 x 4 pixels, the tiles in another order.
"""

from __future__ import annotations

import io
import string
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

SIDE = 28
TILE = 4
OVERSAMPLING = 4
DRAWS = 4
SCRIBBLES = TEXTURES = 2_000
CURVES_MAX = 3
MARGIN_PIXELS = 3.0
POINTS_PER_INCH = 72
PEN_PIXELS = (1.5, 4.0)
HEIGHT_PIXELS = (14.0, 24.0)
TURN_DEGREES_MAX = 15.0
SHIFT_PIXELS_MAX = 2.0
GRAIN = (1.0, 3.0)  # exponents of the amplitude spectrum: from cloudy to slow gradients
FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
)


def development_images(products: NDArray[np.uint8], seed: int) -> dict[str, NDArray[np.uint8]]:
    """Return each kind by name: 2,496 letters, 2,000 scribbles and textures, a patchwork of each of `products`."""
    rng = np.random.default_rng([seed, 0xDE])
    return {
        "letters": _letters(rng),
        "scribbles": _scribbles(rng),
        "textures": _textures(rng),
        "patchwork": _patchwork(products, rng),
    }


def _draw(outline: Outline, place: Affine2D, **style: Any) -> NDArray[np.uint8]:
    """Draw in white on black, pixels counted from the lower left: four times too large, then averaged."""
    figure = Figure(figsize=(1, 1), dpi=SIDE * OVERSAMPLING, facecolor="black")
    figure.add_artist(PathPatch(outline, transform=place + Affine2D().scale(OVERSAMPLING), **style))
    file = io.BytesIO()
    figure.savefig(file, format="rgba", facecolor="black")
    grey = np.frombuffer(file.getvalue(), np.uint8)[::4]
    fine = grey.reshape(SIDE, OVERSAMPLING, SIDE, OVERSAMPLING)
    return np.asarray(fine.mean(axis=(1, 3)).round(), np.uint8)


def _letters(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw outlines, neither hinted nor snapped to pixels: every turn and place is a drawing of its own."""
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    images = []
    for face in FACES:
        font = FontProperties(fname=fonts / f"{face}.ttf")
        for letter in string.ascii_letters:
            outline = TextPath((0, 0), letter, size=100, prop=font)
            box = outline.get_extents()
            for _ in range(DRAWS):
                scale = rng.uniform(*HEIGHT_PIXELS) / max(box.width, box.height)
                right, up = SIDE / 2 + rng.uniform(-SHIFT_PIXELS_MAX, SHIFT_PIXELS_MAX, 2)
                place = Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2).scale(scale)
                place.rotate_deg(rng.uniform(-TURN_DEGREES_MAX, TURN_DEGREES_MAX)).translate(right, up)
                images.append(_draw(outline, place, facecolor="white", linewidth=0))
    return np.stack(images)


def _scribbles(rng: np.random.Generator) -> NDArray[np.uint8]:
    images = []
    for _ in range(SCRIBBLES):
        curves = int(rng.integers(1, CURVES_MAX + 1))
        points = rng.uniform(MARGIN_PIXELS, SIDE - MARGIN_PIXELS, (4 * curves, 2))
        outline = Outline(points, [Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4] * curves)
        wide = rng.uniform(*PEN_PIXELS) * POINTS_PER_INCH / SIDE  # the sheet is an inch wide
        images.append(_draw(outline, Affine2D(), fill=False, edgecolor="white", linewidth=wide, capstyle="round"))
    return np.stack(images)


def _textures(rng: np.random.Generator) -> NDArray[np.uint8]:
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    frequency[0, 0] = 1.0  # the mean, which the stretch to full range takes away again
    grain = rng.uniform(*GRAIN, (TEXTURES, 1, 1))
    fields = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(TEXTURES, SIDE, SIDE))) * frequency**-grain, (SIDE, SIDE))
    low, high = fields.min(axis=(1, 2), keepdims=True), fields.max(axis=(1, 2), keepdims=True)
    return np.asarray((255.0 * (fields - low) / (high - low)).round(), np.uint8)


def _patchwork(products: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    per_side = SIDE // TILE
    tiles = products.reshape(-1, per_side, TILE, per_side, TILE).swapaxes(2, 3).reshape(-1, per_side**2, TILE, TILE)
    order = rng.permuted(np.tile(np.arange(per_side**2), (len(tiles), 1)), axis=1)
    moved = np.take_along_axis(tiles, order[:, :, None, None], axis=1)
    return np.asarray(
        moved.reshape(-1, per_side, per_side, TILE, TILE).swapaxes(2, 3).reshape(-1, SIDE, SIDE), np.uint8
    )
