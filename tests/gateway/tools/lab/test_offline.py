"""The oracle without a gateway: screens, steps and answers as the policy has them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from defenses.accounts.observed import Observed
from defenses.budget.hardening import HardeningRule
from defenses.budget.policy import Action
from defenses.budget.steps import Step
from defenses.lab.attack import Reason, Refused, Split
from defenses.lab.offline import Defended, OfflineOracle
from gateway.tools.init.init import RELEASE_KEY
from gateway.tools.lab.models import BundleModel, Rows
from gateway.tools.samples import bundles_directory

FOREVER_NS = 10**18


class Suspicious:
    """A watch with as much evidence as an account has asked rows; a row repeats the one before it."""

    def __init__(self) -> None:
        self.before = {}

    def observe(self, askers, starts, inputs, outputs, now_ns):
        evidence, anchors = [], {}
        for row, asker in enumerate(askers):
            asked = self.before.setdefault(asker.principal, [])
            evidence.append(float(len(asked)))
            if asked:
                anchors[row] = asked[-1]
            asked.append({"probabilities": outputs["probabilities"][row : row + 1].copy()})
        return Observed({}, {}, np.array(evidence), {}, anchors)


def step(action, rows):
    return Step(action, float(rows), FOREVER_NS)


@pytest.fixture(scope="module")
def model():
    root = bundles_directory()
    return BundleModel(root / "kiosk" / "1", root / RELEASE_KEY)


@pytest.fixture(scope="module")
def sample():
    return Rows(None).draw("kiosk", Split.TEST, 40, 0)


def noise(count):
    return np.random.default_rng(1).random((count, 28, 28)).astype(np.float32)


def test_undefended_it_is_the_model(model, sample):
    answers = OfflineOracle(model, "image", None).ask(sample.rows)
    np.testing.assert_array_equal(answers.probabilities, model.outputs(sample.rows)["probabilities"])
    assert answers.answered.all()
    assert answers.acted is not None
    assert not answers.acted.any()
    assert (answers.labels == sample.labels).mean() > 0.8
    assert OfflineOracle(model, "image", None).ask(noise(5)).answered.all()


def test_what_is_no_product_is_refused(model, sample):
    oracle = OfflineOracle(model, "image", Defended())
    with pytest.raises(Refused) as refused:
        oracle.ask(noise(3))
    assert refused.value.reason is Reason.REFUSED
    mixed = oracle.ask(np.concatenate([sample.rows[:1], noise(1)]))
    assert mixed.answered.tolist() == [True, False]
    assert np.isnan(mixed.probabilities[1]).all()
    assert mixed.labels[1] == -1
    assert mixed.acted is not None
    assert mixed.acted.tolist() == [False, True]


def test_answers_are_hardened(model, sample):
    rule = HardeningRule(top_k=3, temperature=1.0, decimals=3)
    found = OfflineOracle(model, "image", Defended(hardening=rule)).ask(sample.rows)
    assert ((found.probabilities > 0).sum(1)[found.answered] <= 3).all()


def test_steps_are_an_accounts_own(model, sample):
    defended = Defended(steps=(step(Action.TOP1, 2), step(Action.COOL_DOWN, 4)))
    oracle = OfflineOracle(model, "image", defended, accounts=2, watch=Suspicious())
    first = oracle.ask(sample.rows[:5])
    assert first.answered.tolist() == [True] * 4 + [False]
    assert np.count_nonzero(first.probabilities[:4], axis=1).tolist()[2:] == [1, 1]
    assert np.count_nonzero(first.probabilities[0]) > 1
    with pytest.raises(Refused) as refused:
        oracle.ask(sample.rows[:1])
    assert refused.value.reason is Reason.RATE_LIMITED
    assert oracle.ask(sample.rows[:1], account=1).answered.all()


@pytest.mark.parametrize(("consistent", "steps"), [(True, ()), (False, (step(Action.NEIGHBOUR, -math.inf),))])
def test_repeats_are_answered_as_before(model, sample, consistent, steps):
    defended = Defended(flag=0.0, refuse=0.0, steps=steps, consistent=consistent)
    first = OfflineOracle(model, "image", defended, watch=Suspicious()).ask(sample.rows[:3])
    alone = model.outputs(sample.rows[:3])["probabilities"]
    np.testing.assert_array_equal(first.probabilities[0], alone[0])
    np.testing.assert_array_equal(first.probabilities[1], alone[0])


def test_it_has_the_accounts_it_has(model, sample):
    with pytest.raises(IndexError):
        OfflineOracle(model, "image", None).ask(sample.rows[:1], account=1)
    with pytest.raises(ValueError, match="0 rows"):
        OfflineOracle(model, "image", None).ask(sample.rows[:0])
