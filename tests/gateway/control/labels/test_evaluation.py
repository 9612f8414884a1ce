"""What later labels say of versions: counted in the file, worked out, shown in the metrics and kept in the log."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.labels.evaluation import RECORD_EVERY_NS, Evaluations, calibration_noise, evaluated, promised_by
from gateway.host.chores import keep_evaluating
from gateway.request.labels.rows import CONFIDENCE_BINS, Draft, Outcomes
from gateway.request.labels.store import FILE, FeedbackStore
from gateway.tools.samples import bundles_directory
from ops.audit.log.entry import canonical, parse
from ops.metrics import LabelFigures
from ops.metrics.gateway import Metrics
from ops.metrics.scrape import expose
from serving.bundles.bundle import load_bundle
from serving.bundles.catalog import find_bundles
from serving.engines.measure import calibration_error
from tests.gateway.request.labels.labelled import MODEL, ask, item, labelled_rig, results, store_of
from tests.ops.audit.log.test_entry import OWN

WINDOW_MS = 1_000
SECOND = 1_000_000_000
TAKES = SimpleNamespace(feedback=SimpleNamespace(window_ms=WINDOW_MS))
POLICY = SimpleNamespace(models={"kiosk": TAKES, "other": SimpleNamespace(feedback=None)})


def draft(number, *, right=True, confidence=0.9, trusted=False, state="accepted", reason="", received_ns=SECOND):
    said = "a" if right else "b"
    return Draft(
        request=number.to_bytes(16, "big"),
        row=0,
        tenant="t",
        principal="p",
        model="kiosk",
        version="2",
        label=0,
        name=said,
        answered="a",
        latent=b"",
        p_micro=9,
        outcome_ns=1,
        received_ns=received_ns,
        key="k",
        trusted=trusted,
        state=state,
        reason=reason,
        confidence_micro=round(confidence * 1_000_000) if confidence is not None else -1,
    )


def filled(path, drafts, *, confirmed=None):
    store = FeedbackStore(path)
    with store.transaction() as step:
        ids = [step.draft(each) for each in drafts]
    store.confirm(ids[:confirmed])
    return store


def looked(path, now_ns=SECOND):
    found = Evaluations(path)
    found.look(POLICY, now_ns)
    return {(each.version, each.source): (each.right, each.labels) for each in found.found}


def test_what_passed_the_gate_counts_by_source_and_nothing_else(tmp_path):
    drafts = [
        draft(1),
        draft(2, right=False),
        draft(3, right=False, state="learned", reason="passed"),
        draft(4, right=False, state="quarantined", reason="INCONSISTENT"),
        draft(5, right=False, state="rejected"),
        draft(6, right=False, confidence=None),
        draft(7, trusted=True),
        draft(8, right=False, trusted=True, state="quarantined", reason="INCONSISTENT"),
        draft(9, right=False, trusted=True, state="quarantined", reason="FLAGGED_ANSWER"),
        draft(10, right=False, trusted=True, state="rejected", reason="looked"),
        draft(11, right=False, trusted=True, state="quarantined", reason="CONTRADICTED"),
        draft(12, right=False),
    ]
    filled(tmp_path / FILE, drafts, confirmed=11)
    assert looked(tmp_path / FILE) == {("2", "others"): (1, 3), ("2", "trusted"): (1, 3)}


def test_a_trusted_label_counts_for_a_canary_until_a_person_rejects_it(tmp_path):
    drafts = [
        draft(1, trusted=True),
        draft(2, right=False, trusted=True),
        draft(3, right=False, trusted=True, state="quarantined", reason="CONTRADICTED"),
        draft(4, right=False, trusted=True, state="quarantined", reason="FLAGGED_ANSWER"),
        draft(5, right=False),
    ]
    store = filled(tmp_path / FILE, drafts)
    assert store.agreements() == {("kiosk", "2"): (1, 3)}
    with store.transaction() as step:
        assert step.reject([2, 2, 4, 5, 99], "a stolen key") == 3
    assert store.agreements() == {("kiosk", "2"): (1, 2)}
    assert looked(tmp_path / FILE) == {("2", "trusted"): (1, 2)}


def test_labels_are_forgotten_by_the_window(tmp_path):
    filled(tmp_path / FILE, [draft(1, received_ns=SECOND), draft(2, received_ns=2 * SECOND)])
    assert looked(tmp_path / FILE, 2 * SECOND) == {("2", "others"): (2, 2)}
    assert looked(tmp_path / FILE, 2 * SECOND + 1) == {("2", "others"): (1, 1)}
    assert looked(tmp_path / FILE, 3 * SECOND + 1) == {}


@given(st.lists(st.tuples(st.integers(0, 1_000_000), st.booleans()), min_size=1, max_size=60))
def test_the_calibration_error_is_that_of_the_evaluation_before_promotion(tmp_path_factory, answers):
    path = tmp_path_factory.mktemp("feedback") / FILE
    filled(path, [draft(n, right=right, confidence=micro / 1e6) for n, (micro, right) in enumerate(answers)])
    [found] = evaluated("kiosk", FeedbackStore(path).outcomes("kiosk", 0), 0)
    confidences = np.array([micro / 1e6 for micro, _ in answers])
    probabilities = np.stack([confidences, np.zeros(len(answers))], axis=1)  # the top class is the first
    labels = np.array([0 if right else 1 for _, right in answers])
    probabilities[confidences == 0, 0] = 1e-12
    assert found.calibration_error == pytest.approx(calibration_error(probabilities, labels, CONFIDENCE_BINS), abs=1e-6)


def test_a_file_of_before_confidences_were_noted_goes_on(tmp_path):
    path = tmp_path / FILE
    filled(path, [draft(1)])
    with sqlite3.connect(path) as db:
        for table, column in (("answers", "confidence_micro"), ("items", "confidence_micro"), ("items", "counted")):
            db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    db.close()
    filled(path, [draft(2)])
    assert looked(path) == {("2", "others"): (1, 1)}  # how sure the first answer was is not known


def test_nothing_is_made_where_nobody_said_anything(tmp_path):
    assert looked(tmp_path / FILE) == {}
    assert not (tmp_path / FILE).exists()


def test_the_log_is_told_once_an_hour_and_of_what_changed(tmp_path):
    found = Evaluations(tmp_path / FILE)
    filled(found.file, [draft(1), draft(2, right=False, confidence=0.6)])
    found.look(POLICY, SECOND)
    [entry] = found.to_record(SECOND)
    assert (entry["right"], entry["labels"], entry["calibration_error_micro"]) == (1, 2, 350_000)
    whole = {**OWN, **entry, "kind": "evaluation"}
    assert parse(canonical(whole)) == whole
    filled(found.file, [draft(3)])
    found.look(POLICY, SECOND)
    assert found.to_record(SECOND + RECORD_EVERY_NS - 1) == []
    assert [entry["labels"] for entry in found.to_record(SECOND + RECORD_EVERY_NS)] == [3]
    assert found.to_record(SECOND + 2 * RECORD_EVERY_NS) == []


def streams(confidences, truths, looks):
    """Return, at each number of labels, the error and noise of streams whose answers are right as `truths` say."""
    right = np.random.default_rng(0).random(truths.shape) < truths
    bins = np.minimum((confidences * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    for sure, met, places in zip(confidences, right, bins, strict=True):
        found = []
        for look in looks:
            there = [places[:look] == place for place in np.unique(places[:look])]
            parts = [
                Outcomes("2", True, int(at.sum()), int(met[:look][at].sum()), round(sure[:look][at].sum() * 1e6))
                for at in there
            ]
            [each] = evaluated("kiosk", parts, 0)
            found.append(each.calibration_error > each.calibration_noise)
        yield found


LOOKS = range(50, 1_001, 50)


def test_true_confidence_is_hardly_ever_further_off_than_noise():
    confidences = np.clip(np.random.default_rng(1).beta(6, 0.55, (200, 1_000)), 0.1, 1.0)
    assert np.mean([any(found) for found in streams(confidences, confidences, LOOKS)]) <= 0.02


def test_confidence_that_is_off_by_more_than_noise_shows():
    confidences = np.random.default_rng(1).uniform(0.7, 1.0, (50, 1_000))
    assert np.mean([found[-1] for found in streams(confidences, confidences - 0.15, LOOKS)]) >= 0.98


def test_noise_shrinks_with_labels_and_is_least_where_the_model_is_sure():
    some, more, sure = (
        calibration_noise([Outcomes("2", True, labels, 0, labels * micro)])
        for labels, micro in ((100, 800_000), (10_000, 800_000), (100, 1_000_000))
    )
    assert 0 < more < some / 5
    assert 0 < sure < some / 5


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"accuracy": 0.9, "calibration_error": 0.01}, (0.9, 0.01)),
        ({"accuracy": 1}, (1.0, None)),
        ({"next_click": {"accuracy": 0.3, "calibration_error": 0.01}}, (0.3, 0.01)),
        ({"next_click": 0.3}, (None, None)),
        ({"accuracy": "good", "calibration_error": 3.0}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_what_a_manifest_promises_is_told_where_it_is_a_share(metrics, told):
    bundle = SimpleNamespace(name="kiosk", version="2", manifest={"metrics": metrics})
    assert promised_by([bundle]) == {("kiosk", "2"): told}


@pytest.mark.parametrize("directory", find_bundles(bundles_directory()), ids=lambda path: "/".join(path.parts[-2:]))
def test_every_bundle_of_the_project_promises_both(directory):
    bundle = load_bundle(directory, [bundles_directory() / "stockade-release.pub"])
    ((accuracy, calibration_error),) = promised_by([bundle]).values()
    assert accuracy > calibration_error > 0


def test_what_has_no_labels_any_more_shows_none(tmp_path):
    metrics = Metrics(tmp_path, "host", methods={}, reasons=[])
    shown = metrics.evaluations()
    version = 'model="kiosk",version="2"'
    series = 'model="kiosk",source="trusted",version="2"'
    shown.found([LabelFigures("kiosk", "2", "trusted", 10, 9, 0.25, 0.2, 0.92, 0.01)])
    page = expose(tmp_path).decode()
    for name, value in {
        f"labels{{{series}}}": 10.0,
        f"labels_right{{{series}}}": 9.0,
        f"calibration_error_ratio{{{series}}}": 0.25,
        f"calibration_noise_ratio{{{series}}}": 0.2,
        f"accuracy_promised_ratio{{{version}}}": 0.92,
        f"calibration_error_promised_ratio{{{version}}}": 0.01,
    }.items():
        assert f"stockade_model_{name} {value}" in page
    shown.found([])
    assert f"stockade_model_labels{{{series}}} 0.0" in expose(tmp_path).decode()
    metrics.close()


class Recorded(asyncio.Queue):
    """What a control plane was told to record."""

    async def record_when_possible(self, kind, **fields):
        await self.put((kind, fields))


async def test_the_supervisor_keeps_looking(tmp_path):
    filled(tmp_path / FILE, [draft(1, received_ns=time.time_ns())])
    metrics = Metrics(tmp_path / "metrics", "host", methods={}, reasons=[])
    control = Recorded()
    control.app = SimpleNamespace(metrics=metrics, gw=SimpleNamespace(wall_ns=time.time_ns))
    bundle = SimpleNamespace(name="kiosk", version="2", manifest={"metrics": {"accuracy": 0.9}})
    repository = SimpleNamespace(bundles={"kiosk/2": bundle})
    evaluations = Evaluations(tmp_path / FILE)
    host = SimpleNamespace(control=control, repository=repository, policy=POLICY, evaluations=evaluations)
    looking = asyncio.create_task(keep_evaluating(host, control))
    kind, fields = await control.get()
    looking.cancel()
    assert (kind, fields["right"], fields["labels"]) == ("evaluation", 1, 1)
    page = expose(tmp_path / "metrics").decode()
    assert 'stockade_model_labels{model="kiosk",source="others",version="2"} 1.0' in page
    assert 'stockade_model_accuracy_promised_ratio{model="kiosk",version="2"} 0.9' in page
    metrics.close()


async def test_a_file_that_cannot_be_read_is_said_and_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.host.chores.EVALUATE_EVERY_S", 0.0)
    (tmp_path / FILE).write_bytes(b"not a database, but as long as one's header has to be" * 20)
    said = asyncio.Queue()
    gw = SimpleNamespace(wall_ns=time.time_ns)
    app = SimpleNamespace(metrics=SimpleNamespace(evaluations=lambda: None), gw=gw)

    def log(event, **_):
        said.put_nowait(event)

    control, evaluations = SimpleNamespace(app=app), Evaluations(tmp_path / FILE)
    host = SimpleNamespace(control=control, policy=POLICY, log=log, evaluations=evaluations)
    looking = asyncio.create_task(keep_evaluating(host, control))
    assert [await said.get() for _ in range(2)] == ["versions-not-evaluated"] * 2
    looking.cancel()


async def test_an_answer_keeps_how_sure_the_model_was(made_site, tmp_path):
    async with labelled_rig(made_site, tmp_path) as rig:
        answered = await ask(rig, "b", rows=2)
        said = [item(answered.request_id, "b"), item(answered.request_id, "b", row=1)]
        assert await results(rig, said) == [("accepted", "")] * 2
        [found] = store_of(rig).outcomes(MODEL, 0)
        assert (found.version, found.trusted, found.labels, found.right) == ("1", False, 2, 2)
        assert found.confidence_micro == 2_000_000  # the model of the tests is always sure
