"""The contract of `defenses.budget.screen.Screen`, over every screen. A new screen adds one line to SCREENS."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from defenses.budget.screen import Evidence
from defenses.errors import EvidenceInvalid
from defenses.screens.evidence import EvidenceScreen, fit_evidence
from defenses.screens.trigger import TriggerScreen
from defenses.screens.trigger_fit import CleanRows, fit_trigger

WIDTH, SIDE = 5, 3


def model_outputs(rng, rows):
    """Everything that a model of ours says of a batch, and the batch itself, which is the model's input `image`."""
    return {
        "energy": rng.normal(size=rows).astype(np.float32),
        "mahalanobis": rng.chisquare(64, rows).astype(np.float32),
        "residual": rng.gamma(3.0, 0.01, rows).astype(np.float32),
        "probabilities": rng.dirichlet(np.full(10, 0.2), rows).astype(np.float32),
        "latent": rng.gamma(2.0, 0.5, (rows, WIDTH)).astype(np.float32),
        "image": rng.random((rows, SIDE, SIDE)).astype(np.float32),
    }


def fitted_evidence(seed):
    rng = np.random.default_rng(seed)
    return EvidenceScreen.from_calibration(
        fit_evidence(model_outputs(rng, 1_000), model_outputs(rng, 3_000), model_outputs(rng, 1_000))[0]
    )


def fitted_trigger(seed):
    rng = np.random.default_rng(seed)
    seen = [model_outputs(rng, rows) for rows in (1_400, 1_000, 3_000, 1_000)]
    splits = [CleanRows(one["image"], one, np.arange(len(one["image"])) % 10) for one in seen]
    return TriggerScreen.from_calibration(fit_trigger(*splits, input_name="image")[0])


# name: (screen calibrated with a seed, what it reads)
SCREENS = {
    "evidence": (fitted_evidence, ("energy", "mahalanobis", "residual")),
    "trigger": (fitted_trigger, ("image", "probabilities", "latent")),
}


@pytest.fixture(scope="module", params=SCREENS)
def case(request):
    build, reads = SCREENS[request.param]
    return request.param, build, build(1), reads


@st.composite
def any_outputs(draw):
    """Whatever floats a model may return: infinities, NaN and denormals among them."""
    rows = draw(st.integers(0, 9))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    shapes = {"probabilities": (rows, 10), "latent": (rows, WIDTH), "image": (rows, SIDE, SIDE)}
    names = ("energy", "mahalanobis", "residual", *shapes)
    return {name: draw(arrays(dtype, shapes.get(name, (rows,)))) for name in names}


def score(screen, outputs):
    inputs = {name: array for name, array in outputs.items() if name == "image"}
    return screen.score(Evidence(inputs, {name: array for name, array in outputs.items() if name != "image"}))


def test_identity(case):
    name, _, screen, _ = case
    assert screen.name == name
    assert re.fullmatch(r"AML\.T\d{4}(\.\d{3})?", screen.technique)
    assert re.fullmatch(r"[0-9a-f]{64}", screen.digest)


def test_the_digest_is_the_calibrations(case):
    _, build, screen, _ = case
    assert build(1).digest == screen.digest != build(2).digest


@given(outputs=any_outputs())
@settings(deadline=None, max_examples=200)
def test_any_outputs_score_one_number_a_row_never_nan(case, outputs):
    scores = score(case[2], outputs)
    assert scores.dtype == np.float64
    assert scores.shape == outputs["energy"].shape
    assert not np.isnan(scores).any()


@given(outputs=any_outputs(), order=st.randoms())
@settings(deadline=None, max_examples=100)
def test_a_rows_score_is_its_own_to_the_bit(case, outputs, order):
    screen = case[2]
    together = score(screen, outputs)
    shuffled = list(range(len(together)))
    order.shuffle(shuffled)
    assert score(screen, {name: a[shuffled] for name, a in outputs.items()}).tobytes() == together[shuffled].tobytes()
    for row in range(len(together)):
        alone = score(screen, {name: array[row : row + 1] for name, array in outputs.items()})
        assert alone.tobytes() == together[row].tobytes()


def test_evidence_is_not_written_to_and_has_no_memory(case):
    screen = case[2]
    outputs = model_outputs(np.random.default_rng(3), 40)
    for array in outputs.values():
        array.flags.writeable = False
    first = score(screen, outputs)
    score(screen, model_outputs(np.random.default_rng(4), 40))
    assert score(screen, outputs).tobytes() == first.tobytes()


def test_several_threads_at_once_get_the_same_scores(case):
    screen = case[2]
    batches = [model_outputs(np.random.default_rng(seed), 64) for seed in range(40)]
    wanted = [score(screen, outputs).tobytes() for outputs in batches]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda outputs: score(screen, outputs).tobytes(), batches))
    assert got == wanted


def test_non_finite_is_most_suspicious(case):
    _, _, screen, reads = case
    outputs = model_outputs(np.random.default_rng(5), 200)
    for name in reads:
        for value in (np.nan, np.inf, -np.inf):
            spoiled = outputs | {name: outputs[name].copy()}
            spoiled[name].reshape(200, -1)[7, 0] = value
            scores = score(screen, spoiled)
            assert (np.delete(scores, 7) < scores[7]).all()


def test_a_missing_or_misshapen_array_is_named(case):
    _, _, screen, reads = case
    outputs = model_outputs(np.random.default_rng(6), 5)
    for name in reads:
        for spoiled in (
            {other: array for other, array in outputs.items() if other != name},
            outputs | {name: outputs[name].reshape(1, *outputs[name].shape)},
            outputs | {name: outputs[name].astype("S4")},
        ):
            with pytest.raises(EvidenceInvalid) as error:
                score(screen, spoiled)
            assert error.value.name == name
