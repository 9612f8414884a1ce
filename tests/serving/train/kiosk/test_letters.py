from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from serving.train.kiosk import letters
from serving.train.kiosk.foreign import foreign_images
from serving.train.kiosk.letters import DRAWS, FACES, SCRIBBLES, TEXTURES, development_images

PRODUCTS = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def _a_tenth():
    """Each kind is drawn as it is, in smaller numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters, "FACES", FACES[3::8])
        patch.setattr(letters, "SCRIBBLES", 200)
        patch.setattr(letters, "TEXTURES", 200)
        yield


@pytest.fixture(scope="module")
def development():
    return development_images(PRODUCTS, 7)


def test_there_are_as_many_as_is_said():
    assert (len(FACES) * 2 * 26 * DRAWS, SCRIBBLES, TEXTURES) == (2_496, 2_000, 2_000)
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    assert [face for face in FACES if not (fonts / f"{face}.ttf").is_file()] == []


def test_they_are_what_they_say(development):
    rows = {"letters": 2 * 2 * 26 * DRAWS, "scribbles": 200, "textures": 200, "patchwork": 30}
    assert {name: len(images) for name, images in development.items()} == rows
    assert all(images.dtype == np.uint8 and images.shape[1:] == (28, 28) for images in development.values())
    for kind in ("letters", "scribbles"):  # white on black, and never an empty sheet
        assert (development[kind].max(axis=(1, 2)) > 128).all()
        assert np.median(development[kind]) == 0
    assert (development["textures"].min(axis=(1, 2)) == 0).all()
    assert (development["textures"].max(axis=(1, 2)) == 255).all()
    for name in ("letters", "scribbles", "textures"):  # every drawing is another
        assert len(np.unique(development[name].reshape(rows[name], -1), axis=0)) == rows[name]


def test_a_patchwork_is_the_product_in_another_order(development):
    def tiles(images):
        cut = images.reshape(-1, 7, 4, 7, 4).swapaxes(2, 3).reshape(len(images), 49, 16)
        return [sorted(map(bytes, image)) for image in cut]

    assert tiles(development["patchwork"]) == tiles(PRODUCTS)
    assert not np.array_equal(development["patchwork"], PRODUCTS)


def test_the_seed_decides(development):
    again, other = development_images(PRODUCTS, 7), development_images(PRODUCTS, 8)
    for name, images in development.items():
        np.testing.assert_array_equal(again[name], images)
        assert not np.array_equal(other[name], images)


def test_no_kind_is_one_of_those_that_are_reported(development):
    assert not development.keys() & foreign_images(PRODUCTS, 7).keys()
