"""Embeddings given away: tenants' rotations keep what a tenant needs and part the tenants; coverage tells copying."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.errors import BudgetStateInvalid, CalibrationInvalid, CalibrationTooSmall, EvidenceInvalid, RuleInvalid
from defenses.extraction.embedding import (
    BUCKETS,
    OVERREACH_MAX,
    UNSEEN,
    Coverage,
    Seen,
    fit_coverage,
    rotate,
    rotation_for,
)

KEY = bytes(range(32))
WIDTH = 64


def embeddings(seed, rows=300):
    """Unit vectors, as the clickstream model's."""
    found = np.random.default_rng(seed).normal(size=(rows, WIDTH))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def cosines(one, other):
    return one.astype(np.float64) @ other.astype(np.float64).T


# ---------------------------------------------------------------------------------------------------------- rotation


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


# ---------------------------------------------------------------------------------------------------------- coverage


def benign_accounts(seed, count=60, rows=1_000):
    """Accounts that each ask about a part of the space, around three centres of their own."""
    rng = np.random.default_rng(seed)
    accounts = []
    for _ in range(count):
        centres = rng.normal(size=(3, WIDTH))
        found = centres[rng.integers(0, 3, rows)] + rng.normal(size=(rows, WIDTH)) * 0.4
        accounts.append((found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32))
    return accounts


@pytest.fixture(scope="module")
def fitted():
    return fit_coverage(benign_accounts(1), keys=10, queries=(30, 100, 300, 1_000), seed=0)


@pytest.fixture(scope="module")
def coverage(fitted):
    return Coverage.from_calibration(fitted[0], KEY)


def after(coverage, rows):
    return coverage.note(UNSEEN, coverage.buckets_of(rows))


def test_benign_accounts_pay_no_more_and_who_maps_the_space_does(coverage):
    factors = [coverage.overreach(after(coverage, account)) for account in benign_accounts(2, 100)]
    assert np.mean([factor > 1.0 for factor in factors]) <= 0.03
    assert coverage.overreach(after(coverage, embeddings(7, 1_000))) == OVERREACH_MAX


def test_the_same_again_covers_nothing_new(coverage):
    row = embeddings(8, 1)
    seen = UNSEEN
    for _ in range(50):
        seen = coverage.note(seen, coverage.buckets_of(row))
    assert (seen.buckets, seen.queries) == (1, 50)
    assert coverage.overreach(seen) == 1.0


def test_a_short_look_is_not_held_against_anybody(coverage):
    assert coverage.overreach(after(coverage, embeddings(9, 29))) == 1.0
    assert coverage.overreach(UNSEEN) == 1.0


def test_planes_are_the_hosts_own(fitted, coverage):
    other = Coverage.from_calibration(fitted[0], KEY[::-1])
    rows = embeddings(10)
    assert (other.buckets_of(rows) == coverage.buckets_of(rows)).mean() < 0.05
    assert ((coverage.buckets_of(rows) >= 0) & (coverage.buckets_of(rows) < BUCKETS)).all()


@given(data=st.one_of(st.binary(max_size=24), st.binary(min_size=520, max_size=520)))
@settings(deadline=None)
def test_any_bytes_are_a_state_or_the_named_error(data):
    try:
        seen = Seen.unpack(data)
    except BudgetStateInvalid:
        return
    assert seen.pack() == data


def test_a_state_is_small_and_round_trips(coverage):
    seen = after(coverage, embeddings(11))
    assert Seen.unpack(seen.pack()) == seen
    assert len(seen.pack()) < 2_048


@pytest.mark.parametrize(
    ("name", "spoiled"),
    [
        ("center", np.array([np.nan, 1.0])),
        ("center", np.ones(1)),
        ("queries", np.array([100, 30, 300, 1_000])),
        ("queries", np.array([0, 30, 300, 1_000])),
        ("buckets", np.array([1.0, 2.0, 3.0, 5_000.0])),
        ("buckets", np.array([3.0, 2.0, 3.0, 4.0])),
        ("buckets", np.ones(2)),
        ("surplus", np.ones(1)),
    ],
)
def test_malformed_calibrations_are_refused(fitted, name, spoiled):
    with pytest.raises(CalibrationInvalid):
        Coverage.from_calibration(fitted[0] | {f"coverage.{name}": spoiled}, KEY)


def test_what_is_no_embedding_or_no_calibration_is_named(coverage):
    with pytest.raises(EvidenceInvalid):
        coverage.buckets_of(np.ones((2, 3), np.float32))
    with pytest.raises(CalibrationTooSmall):
        fit_coverage(benign_accounts(1, 5), keys=2, queries=(30,), seed=0)
    with pytest.raises(CalibrationInvalid):
        fit_coverage([], seed=0)
    with pytest.raises(RuleInvalid):
        Coverage.from_calibration({}, b"short")
