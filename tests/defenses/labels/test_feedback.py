"""S7, item by item: the promise to right labels, who is suspected, and the caps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.errors import CalibrationInvalid, EvidenceInvalid
from defenses.labels.feedback import (
    CALIBRATION_ROWS_MIN,
    SUSPECT_ALPHA,
    Consistency,
    capped,
    fit_consistency,
    right_rate_max,
    suspects,
)

CLASSES, WIDTH = 4, 6
CENTRES = np.random.default_rng(99).normal(size=(CLASSES, WIDTH)) * 2.0


def rows(count, seed, width=WIDTH):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    return (CENTRES[labels] + rng.normal(size=(count, width))).astype(np.float32), labels


@pytest.fixture(scope="module")
def arrays():
    return fit_consistency(rows(400, 1), rows(2_000, 2))


@pytest.fixture(scope="module")
def gate(arrays):
    return Consistency.load(arrays)


def test_right_labels_are_inconsistent_as_rarely_as_promised_in_each_class(gate):
    latents, labels = rows(4_000, 3)
    p_values = gate.p_values(latents, labels)
    for label in range(CLASSES):
        share = (p_values[labels == label] <= 0.05).mean()
        assert share <= 0.08  # 0.05, and four standard errors of both sets


def test_wrong_labels_are_found(gate):
    latents, labels = rows(2_000, 4)
    assert (gate.p_values(latents, (labels + 1) % CLASSES) <= 0.05).mean() > 0.8


def test_a_row_is_judged_alone(gate):
    latents, labels = rows(700, 5)  # more than a chunk
    together = gate.p_values(latents, labels)
    alone = [float(gate.p_values(latents[i : i + 1], labels[i : i + 1])[0]) for i in range(700)]
    assert np.abs(together - alone).max() <= 1 / 400  # a distance may be off in its last bit, and a rank by one


def test_a_latent_that_is_no_number_gets_the_smallest_p(gate):
    for value in (np.nan, np.inf, -np.inf, 3e38):
        p_value = gate.p_values(np.full((1, WIDTH), value, np.float32), [1])[0]
        assert p_value == 1 / (gate.calibration[1].size + 1)


def test_no_items_are_no_p_values(gate):
    assert gate.p_values(np.empty((0, WIDTH), np.float32), []).shape == (0,)


@pytest.mark.parametrize(
    ("latents", "labels"),
    [
        (np.zeros((2, WIDTH)), [0]),
        (np.zeros((1, WIDTH + 1)), [0]),
        (np.zeros(WIDTH), [0]),
        (np.zeros((1, WIDTH)), [CLASSES]),
        (np.zeros((1, WIDTH)), [-1]),
    ],
)
def test_what_does_not_fit_is_refused(gate, latents, labels):
    with pytest.raises(EvidenceInvalid):
        gate.p_values(latents, labels)


def test_the_digest_covers_rows_and_calibration(gate):
    one = Consistency(gate.latents + 1, gate.labels, gate.calibration)
    other = Consistency(gate.latents, gate.labels, (gate.calibration[0] * 2, *gate.calibration[1:]))
    assert len({gate.digest, one.digest, other.digest}) == 3


@pytest.mark.parametrize("name", ["latents", "labels", "calibration", "calibration_labels"])
def test_arrays_that_will_not_do_are_refused(arrays, name):
    key = f"feedback.{name}"
    for changed in (
        {k: v for k, v in arrays.items() if k != key},
        arrays | {key: arrays[key][:50]},
        arrays | {key: arrays[key].astype(complex)},
    ):
        with pytest.raises(CalibrationInvalid):
            Consistency.load(changed)


def test_a_class_with_too_few_rows_is_refused():
    latents, labels = rows(400, 1)
    with pytest.raises(CalibrationInvalid):
        fit_consistency((latents[labels != 2], labels[labels != 2]), rows(2_000, 2))
    seen, said = rows(2_000, 2)
    few = (said != 2) | (np.cumsum(said == 2) <= 99)
    with pytest.raises(CalibrationInvalid):
        fit_consistency((latents, labels), (seen[few], said[few]))


def test_an_honest_principal_is_suspected_as_rarely_as_promised():
    """At any number of items, looked at after each: of 2,000 honest ones at most about 0.1 % are ever suspected."""
    rng = np.random.default_rng(6)
    ever = sum(
        any(suspects(["x"] * n, draws[:n], 0.05, 0.05) for n in range(10, 201, 10))
        for draws in (rng.random(200) for _ in range(2_000))
    )
    assert ever <= 2_000 * SUSPECT_ALPHA + 4 * np.sqrt(2_000 * SUSPECT_ALPHA)


def test_who_contradicts_trusted_rows_half_of_the_time_is_suspected_within_twenty_items():
    p_values = np.tile([0.001, 0.5], 10)
    assert suspects(["evil"] * 20, p_values, 0.05, right_rate_max([385] * 10, 0.05)) == ["evil"]


def test_suspicion_is_of_the_one_who_earned_it():
    names = ["evil"] * 20 + ["good"] * 20
    assert suspects(names, [0.001] * 20 + [0.5] * 20, 0.05, 0.1) == ["evil"]
    assert suspects([], [], 0.05, 0.1) == []


def test_right_labels_are_inconsistent_no_more_often_than_the_bound_says():
    """Of 2,000 calibrations of 385 rows: the true rate of p <= 5 % is what lies above the 19th largest score."""
    draws = np.sort(np.random.default_rng(8).random((2_000, 385)), axis=1)
    beyond = (1 - draws[:, -19] > right_rate_max([385], 0.05)).sum()
    assert 0 < beyond <= 20 + 4 * np.sqrt(20)


def test_more_classes_and_fewer_rows_make_the_bound_wider(gate):
    one, ten, few = (right_rate_max(rows, 0.05) for rows in ([385], [385] * 10, [385] * 9 + [100]))
    assert 0.05 < one < ten < few < 0.2
    assert right_rate_max([CALIBRATION_ROWS_MIN], 1e-4) > 0  # no p is as small
    assert gate.right_rate_max(0.05) == right_rate_max([part.size for part in gate.calibration], 0.05)


def test_an_honest_principal_of_an_unlucky_calibration_is_not_suspected_either():
    """One calibration in fifty says 7.5 % where it means 5 %; with labels enough that alone would look like lies."""
    p_values = np.where(np.random.default_rng(9).random(20_000) < 0.075, 0.01, 0.5)
    names = ["honest"] * 20_000
    assert suspects(names, p_values, 0.05, 0.05) == ["honest"]
    assert suspects(names, p_values, 0.05, right_rate_max([385] * 10, 0.05)) == []


def cap(tenants, principals, trusted_rows, share=0.01, own=0.01):
    rng = np.random.default_rng(0)
    return capped(tenants, principals, trusted_rows, tenant_share_max=share, principal_share_max=own, rng=rng)


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz")), max_size=200),
    st.integers(0, 500),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
)
def test_nobody_has_more_than_his_share_of_what_is_left(who, trusted_rows, share, own):
    tenants, principals = [tenant for tenant, _ in who], [name for _, name in who]
    kept = cap(tenants, principals, trusted_rows, share, own)
    total = trusted_rows + kept.sum()
    for tenant in set(tenants):
        assert sum(kept[i] for i, name in enumerate(tenants) if name == tenant) <= share * total
        for principal in set(principals):
            assert sum(kept[i] for i, pair in enumerate(who) if pair == (tenant, principal)) <= own * total


def test_everything_is_kept_where_nobody_has_too_much():
    tenants = [f"t{i}" for i in range(100)]
    assert cap(tenants, tenants, 0).all()
    assert cap(["t"] * 10, ["p"] * 10, 990).all()
    assert cap(["t"] * 11, ["p"] * 11, 988).sum() < 11


def test_without_trusted_rows_a_few_tenants_make_no_update():
    assert not cap(["a", "b"] * 50, ["p"] * 100, 0).any()


def test_who_floods_cannot_push_out_what_came_before():
    """Of a tenant with 10 early and 990 late items, what is kept is drawn: neither all of the late ones."""
    kept = cap(["t"] * 1_000, ["p"] * 1_000, 49_500)
    assert 490 <= kept.sum() <= 500
    assert 1 <= kept[:20].sum() <= 19
