from __future__ import annotations

import numpy as np
import pytest

from serving.engines.inprocess import InProcessEngine
from serving.train.density import fit_classes, fit_plane, rooted
from tests.serving.tiny import CLASSES, WIDTH, tiny_bundle, tiny_graph


def test_the_plane_finds_the_plane_the_images_lie_in():
    rng = np.random.default_rng(0)
    basis = rng.random((3, 784)) * 40
    images = (rng.random((500, 3)) @ basis).round().astype(np.uint8).reshape(-1, 28, 28)
    plane = fit_plane(images, 3)
    assert plane.explained > 0.98
    np.testing.assert_allclose(plane.components.T @ plane.components, np.eye(3), atol=1e-10)
    centred = images.reshape(-1, 784) / 255 - plane.mean
    left = centred - centred @ plane.components @ plane.components.T
    assert np.sqrt((left**2).mean()) < 0.003  # rounding to whole grey levels


def test_whitened_features_have_unit_spread_around_their_class():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 40_000).astype(np.uint8)
    mixing = np.eye(6) + 0.2 * rng.normal(size=(4, 6, 6))
    roots = np.einsum("nd,nde->ne", rng.normal(size=(len(labels), 6)), mixing[labels]) + 100 + labels[:, None]
    features = roots**2
    fitted = fit_classes(features, labels, 4)
    for label in range(4):
        white = rooted(features[labels == label]) @ fitted.whitening[label] - fitted.means[label]
        np.testing.assert_allclose(white.T @ white / len(white), np.eye(6), atol=0.05)
    assert fitted.shrinkage.max() < 0.01


def test_shrinkage_saves_a_covariance_that_has_too_few_rows():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 6).astype(np.uint8)
    fitted = fit_classes(rng.random(size=(12, 30)), labels, 2)
    assert 0.3 < fitted.shrinkage.min() <= fitted.shrinkage.max() <= 1.0
    assert np.isfinite(fitted.whitening).all()


def test_the_graph_computes_what_was_fitted():
    """Recompute the energies of the tiny graph in float64 from its own constants."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(tiny_graph()).graph
    constants = {item.name: numpy_helper.to_array(item).astype(np.float64) for item in graph.initializer}
    images = np.random.default_rng(1).random((6, 28, 28), dtype=np.float32)
    outputs = InProcessEngine(tiny_bundle()).infer({"image": images})
    centred = images.reshape(6, -1) - constants["plane.mean"]
    left = centred - centred @ constants["plane.components"] @ constants["plane.components"].T
    np.testing.assert_allclose(outputs["residual"], np.sqrt((left**2).mean(axis=1)), rtol=1e-5)
    # The tiny graph has one stage, so its middle features are its latent.
    maps = constants["classes.whitening"].reshape(WIDTH, CLASSES, WIDTH)
    white = np.einsum("nd,dce->nce", rooted(outputs["latent"].astype(np.float64)), maps)
    distances = np.linalg.norm(white + constants["classes.means"].reshape(CLASSES, WIDTH), axis=2)
    assert distances.shape == (6, CLASSES)
    np.testing.assert_allclose(outputs["mahalanobis"], distances.min(axis=1), rtol=1e-5)


def test_what_is_out_of_range_counts_as_the_edge_of_the_range():
    engine = InProcessEngine(tiny_bundle())
    image = np.random.default_rng(2).random((1, 28, 28), dtype=np.float32) * 3 - 1
    for name, value in engine.infer({"image": image}).items():
        np.testing.assert_array_equal(value, engine.infer({"image": image.clip(0, 1)})[name])


@pytest.mark.parametrize("components", [1, 48])
def test_components_are_the_leading_ones(components):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (400, 28, 28), dtype=np.uint8)
    images[:, :14] = images[:, :1, :1]  # one strong direction
    assert fit_plane(images, components).explained > 0.5
