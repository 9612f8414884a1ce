"""Rows that were made to change their neighbours' answers share a batch with them (arXiv 2402.05526): nothing changes.

Rows go the served way alone and in batches with strangers: the model, the screens, the decision, the output policy,
hardening. What stops the attack is that none of these looks beyond its row, and that mixtures have no room that runs
out: every row gets the experts it chose. STOCKADE_ISOLATION_ROWS=10000 looks at all rows of both models (a minute).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from defenses.budget.hardening import HardeningRule
from defenses.budget.output import ClassRule, OutputRule
from defenses.budget.policy import Action, Mode, calibrated_rule
from gateway.models.compile import screen_of
from gateway.request.judgement import judge, soften
from gateway.request.outgoing import emptied, within
from serving.bundles.bundle import load_bundle
from serving.engines.experts import ExpertsEngine
from serving.engines.inprocess import InProcessEngine
from tests.gateway.request.test_judgement import rules as bare_rules
from tests.serving.mixture import mixture_bundle

ROOT = Path(__file__).parents[2] / "bundles"
ROWS = 10_000
ALONE_ROWS = int(os.environ.get("STOCKADE_ISOLATION_ROWS", "1000"))
BATCH_ROWS = 128


@pytest.fixture(scope="module")
def rows():
    """Products, products with noise, rows out of the ordinary, and rows that do not look like any: shuffled."""
    rng = np.random.default_rng(0)
    images = safetensors.numpy.load((ROOT / "samples" / "fashion-mnist-1000.safetensors").read_bytes())["images"]
    known = images[rng.integers(len(images), size=ROWS)].astype(np.float32) / np.float32(255)
    known[ROWS // 2 :] = np.clip(known[ROWS // 2 :] + rng.normal(0, 0.1, known[ROWS // 2 :].shape), 0, 1)
    known[::7] = rng.random(known[::7].shape, np.float32)
    known[::11] = 1.0
    known[::13] = 0.0
    known[::17] *= np.float32(1e-40)  # subnormal numbers
    return np.ascontiguousarray(rng.permutation(known), np.float32)


def kiosk(version):
    bundle = load_bundle(ROOT / "kiosk" / version, [ROOT / "stockade-release.pub"])
    screen = screen_of("evidence", bundle)
    rule = calibrated_rule(Mode.ENFORCE, screen.calibrated.calibration, flag_fpr_max=0.05, refuse_fpr_max=0.01)
    allowed = np.array([name != "Shirt" for name in bundle.class_names])
    rules = replace(
        bare_rules(),
        screens={"evidence": screen},
        screen_rules={"evidence": rule},
        hardening=HardeningRule(3, 1.0, 3),
        output=OutputRule(ClassRule(allowed, 0.4)),
        served=SimpleNamespace(bundle=bundle),
    )
    return InProcessEngine(bundle), rules


def served(engine, rules, rows):
    """What leaves, and what is written down of each row."""
    inputs = {"image": rows}
    outputs = engine.infer(inputs)
    judgement = judge(rules, inputs, outputs, np.arange(len(rows)), len(rows))
    shown, kept = within(outputs, rules, len(rows))
    shown = emptied(soften(shown, judgement.row_actions, rules), kept, rules)
    names = ("probabilities", "abstained")
    return {name: shown[name] for name in names}, judgement.actions, judgement.screens_json, [*kept.moved]


@pytest.mark.parametrize("version", ["1", "2"])
def test_no_row_is_answered_otherwise_because_of_its_neighbours(rows, version):
    engine, rules = kiosk(version)
    together = [served(engine, rules, rows[begin : begin + BATCH_ROWS]) for begin in range(0, ROWS, BATCH_ROWS)]
    answers = {name: np.concatenate([batch[0][name] for batch in together]) for name in ("probabilities", "abstained")}
    said = [[value for batch in together for value in batch[part]] for part in (1, 2, 3)]
    different = 0
    for number in range(min(ROWS, ALONE_ROWS)):
        alone = served(engine, rules, rows[number : number + 1])
        same = all(alone[0][name].tobytes() == answers[name][number].tobytes() for name in answers)
        different += not (same and [part[0] for part in alone[1:]] == [part[number] for part in said])
    assert different == 0
    assert {Action.ALLOW, Action.FLAG, Action.REFUSE} <= {*said[0]}, "some rows pass, some are flagged, some refused"
    assert 0 < answers["abstained"].sum() < ROWS


def test_a_mixture_has_no_room_that_neighbours_could_take(rows):
    """Every neighbour wants the experts of one row: where experts have a capacity, that row would lose its own."""
    engine = ExpertsEngine(mixture_bundle(), crossover_rows=1 << 30)
    chosen = np.concatenate(
        [engine._sparse.router.run(["chosen"], {"image": rows[at : at + 500]})[0] for at in range(0, ROWS, 500)]
    )
    apart = 0.0
    for place in range(0, ROWS, 200):
        row = rows[place : place + 1]
        greedy = rows[(chosen == chosen[place, 0]).any(axis=1)][:255]
        alone = engine.infer({"image": row})
        among = engine.infer({"image": np.concatenate([greedy, row])})
        for name, values in alone.items():
            apart = max(apart, float(np.abs(among[name][-1] - values[0]).max()))
        assert among["probabilities"][-1].argmax() == alone["probabilities"][0].argmax()
    assert apart <= 1e-6
