"""Embeddings given away: tenants' rotations keep what a tenant needs and part the tenants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.errors import EvidenceInvalid, RuleInvalid
from defenses.extraction.embedding import rotate, rotation_for

KEY = bytes(range(32))
WIDTH = 64


def embeddings(seed, rows=300):
    """Unit vectors, as the clickstream model's."""
    found = np.random.default_rng(seed).normal(size=(rows, WIDTH))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def cosines(one, other):
    return one.astype(np.float64) @ other.astype(np.float64).T


@given(tenant=st.text(max_size=20), width=st.integers(2, 70))
@settings(deadline=None, max_examples=40)
def test_a_rotation_is_orthogonal(tenant, width):
    rotation = rotation_for(KEY, tenant, width)
    assert np.abs(rotation @ rotation.T - np.eye(width)).max() < 1e-12


def test_what_a_tenant_does_with_its_embeddings_stays_the_same():
    ours = embeddings(1)
    turned = rotate(ours, rotation_for(KEY, "shop", WIDTH))
    assert turned.dtype == ours.dtype
    assert np.abs(cosines(turned, turned) - cosines(ours, ours)).max() < 1e-6
    assert np.abs(np.linalg.norm(turned, axis=1) - 1.0).max() < 1e-6
    assert np.abs(turned - ours).max() > 0.1


def test_embeddings_of_two_tenants_do_not_fit_together():
    ours = embeddings(2)
    here, there = (rotate(ours, rotation_for(KEY, tenant, WIDTH)) for tenant in ("shop", "store"))
    same_input = np.diag(cosines(here, there))
    assert np.abs(same_input).mean() < 0.2
    found = cosines(here, there).argmax(axis=1)
    assert (found == np.arange(len(ours))).mean() < 0.05, "nobody finds his own input again in another's table"


def test_tenants_keys_and_widths_each_have_their_own():
    one = rotation_for(KEY, "shop", WIDTH)
    assert np.array_equal(one, rotation_for(KEY, "shop", WIDTH))
    assert not np.allclose(one, rotation_for(KEY, "shop2", WIDTH))
    assert not np.allclose(one, rotation_for(KEY[::-1], "shop", WIDTH))
    assert not np.allclose(one[:8, :8], rotation_for(KEY, "shop", 8))


def test_the_draw_is_even():
    """Without the signs of R, the first column of Q would always point one way."""
    first = np.array([rotation_for(KEY, str(n), 4)[:, 0] for n in range(400)])
    assert np.abs(first.mean(axis=0)).max() < 0.12
    assert np.abs((first**2).mean(axis=0) - 0.25).max() < 0.05


def test_a_row_is_turned_the_same_alone_and_in_a_batch():
    ours, rotation = embeddings(3, 40), rotation_for(KEY, "shop", WIDTH)
    together = rotate(ours, rotation)
    for row in range(40):
        assert rotate(ours[row : row + 1], rotation).tobytes() == together[row].tobytes()


def test_common_inputs_undo_it_only_when_there_are_as_many_as_dimensions():
    """What the module says it does not stop, so that nobody believes otherwise."""
    common, others = embeddings(4, 2 * WIDTH), embeddings(5)
    a, b = (rotation_for(KEY, tenant, WIDTH) for tenant in ("shop", "store"))

    def aligned(pairs):
        left, _, right = np.linalg.svd(rotate(common[:pairs], a).T @ rotate(common[:pairs], b))
        return np.diag(cosines(rotate(others, a) @ (left @ right), rotate(others, b))).mean()

    assert aligned(2 * WIDTH) > 0.99
    assert aligned(WIDTH // 8) < 0.4


def test_what_cannot_be_turned_is_named():
    rotation = rotation_for(KEY, "shop", WIDTH)
    for wrong in (np.ones((2, WIDTH + 1), np.float32), np.ones(WIDTH, np.float32), np.ones((2, WIDTH), np.int64)):
        with pytest.raises(EvidenceInvalid):
            rotate(wrong, rotation)
    for key, width in ((b"short", 8), (KEY, 1), (KEY, 5_000)):
        with pytest.raises(RuleInvalid):
            rotation_for(key, "shop", width)
