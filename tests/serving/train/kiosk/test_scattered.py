from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from serving.train.kiosk.data import Labelled
from serving.train.kiosk.few import few_labels
from serving.train.kiosk.scattered import ScatteredSettings, learn_components, taught
from serving.train.kiosk.scattering import FEATURES, log_scattering
from tests.serving.train.kiosk.test_few import bars

SETTINGS = ScatteredSettings(components=20, neighbours=5)
PLANES, PLACES = 81, 49
ROWS = bars(600, 0)


def square(down, across):
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, down : down + 8, across : across + 8] = 200
    return image


def test_features_of_a_row_do_not_depend_on_the_others():
    images = torch.from_numpy(bars(260, 1).images)  # more than a batch
    found = log_scattering(images)
    assert found.shape == (260, FEATURES)
    torch.testing.assert_close(found[-3:], log_scattering(images[-3:]))


def test_wavelets_are_blind_to_a_constant():
    planes = log_scattering(torch.full((1, 28, 28), 200, dtype=torch.uint8)).view(PLANES, PLACES)
    torch.testing.assert_close(planes[0], torch.full((PLACES,), float(np.log(200 / 255 + 1e-3))))
    assert float(planes[1:].max()) < np.log(1.1e-3)


@pytest.mark.parametrize(("turned", "orientation"), [(False, 4), (True, 0)], ids=["rows", "columns"])
def test_a_wavelet_answers_to_lines_across_its_way(turned, orientation):
    lines = torch.zeros(1, 28, 28, dtype=torch.uint8)
    lines[:, ::3] = 255
    planes = log_scattering(lines.transpose(1, 2) if turned else lines).view(PLANES, PLACES)
    assert int(planes[1:9].mean(dim=1).argmax()) == orientation


def test_a_small_move_changes_features_less_than_pixels():
    one, moved, other = square(8, 8), square(9, 9), square(14, 2)

    def share(kind):
        return float((kind(one) - kind(moved)).norm() / (kind(one) - kind(other)).norm())

    assert share(log_scattering) < 0.8 * share(lambda image: image.float())


@pytest.fixture(scope="module")
def components():
    return learn_components(ROWS.images, SETTINGS)


@pytest.mark.slow
def test_components_are_half_white_and_of_length_one(components):
    places = components(ROWS.images)
    np.testing.assert_allclose(places, components.learned_from, atol=1e-4)
    assert np.square(places).sum(axis=1).mean() == pytest.approx(1, rel=0.01)
    whole = learn_components(ROWS.images, replace(SETTINGS, whitening=1.0))(ROWS.images)
    np.testing.assert_allclose(whole.std(axis=0), whole.std(axis=0).mean(), rtol=0.01)


def test_it_learns_from_few_labels(components):
    unseen = bars(200, 7)
    scores = taught(components, few_labels(ROWS, 6, 0), SETTINGS)(components(unseen.images))
    assert (scores.argmax(axis=1) == unseen.labels).mean() > 0.85


def test_a_score_is_half_its_own_and_half_its_neighbours(components):
    labelled, places = few_labels(ROWS, 6, 0), components(bars(20, 7).images)
    own, around, both = (
        taught(components, labelled, replace(SETTINGS, neighbours_share=share))(places) for share in (0.0, 1.0, 0.5)
    )
    np.testing.assert_allclose(both, (own + around) / 2, atol=1e-6)
    assert not np.allclose(own, around)


def test_a_mirror_image_of_a_label_is_one(components):
    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
    labelled = Labelled(images, np.arange(10, dtype=np.uint8))
    scores = taught(components, labelled, replace(SETTINGS, neighbours_share=0.0, ridge=0.01))
    assert scores(components(images[:, :, ::-1])).argmax(axis=1).tolist() == list(range(10))
