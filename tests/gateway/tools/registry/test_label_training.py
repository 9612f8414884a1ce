"""What a trainer does with a batch: a candidate, or nothing; and the batch is closed whatever happens."""

from types import SimpleNamespace

import numpy as np
import pytest

from gateway.tools.registry import label_training as training
from serving.train.feedback import Head, LearnSettings, Rows, fine_tune, measured
from stockade.v1 import feedback_pb2 as pb

CLASSES, WIDTH = 3, 6
CENTRES = np.random.default_rng(2).normal(size=(CLASSES, WIDTH)) * 3.0


def rows(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    return Rows((CENTRES[labels] + rng.normal(size=(count, WIDTH))).astype(np.float16), labels)


@pytest.fixture
def material():
    trusted, held_out = rows(600, 0), rows(600, 1)
    head = fine_tune(Head(np.zeros((CLASSES, WIDTH)), np.zeros(CLASSES)), None, trusted, LearnSettings(anchor=0.0))
    triggered = {"mark": held_out.latents + np.float16(0.5)}
    return SimpleNamespace(head=head, trusted=trusted, held_out=held_out, triggered=triggered)


@pytest.fixture
def told(monkeypatch):
    """What the gateway was told of batches."""
    closed = []

    def asked(method, request, reply, options, *, service):
        assert (method, service) == ("CloseBatch", "FeedbackReview")
        closed.append(request)
        return reply()

    monkeypatch.setattr(training, "asked", asked)
    return closed


def taken_of(found, first=1):
    items = [
        pb.BatchItem(
            id=first + place, label=int(label), latent=latent.astype("<f2").tobytes(), tenant="t", principal="p"
        )
        for place, (latent, label) in enumerate(zip(found.latents, found.labels, strict=True))
    ]
    return pb.TakeFeedbackBatchResponse(batch=7, width=WIDTH, items=items)


def made(taken, material, monkeypatch, *, json=True):
    bundle = SimpleNamespace(name="kiosk", version="9", digest="d" * 64)
    monkeypatch.setattr(training, "written", lambda *_: bundle)
    before = measured(material.head, material.held_out, material.triggered)
    options = SimpleNamespace(json=json, version=9, file=SimpleNamespace(parent=training))
    return training.made_of(taken, material, before, options=options, target=None, key=None)


def test_an_honest_batch_becomes_a_candidate(material, told, monkeypatch, capsys):
    assert made(taken_of(rows(120, 5)), material, monkeypatch) == 0
    [closed] = told
    assert (closed.batch, closed.outcome, closed.version, closed.digest) == (7, "learned", "9", "d" * 64)
    assert '"outcome": "learned"' in capsys.readouterr().out


def test_a_poisoned_batch_is_thrown_out(material, told, monkeypatch, capsys):
    """As many lies as trusted rows: what passed everything before must fail on held-out rows."""
    lies = rows(600, 6)
    poisoned = Rows(lies.latents, (lies.labels + 1) % CLASSES)
    monkeypatch.setattr(training, "planned_items", lambda *_: set())
    wrote = []
    monkeypatch.setattr(training, "written", lambda *_: wrote.append(1))
    before = measured(material.head, material.held_out, material.triggered)
    options = SimpleNamespace(json=True, version=9)
    assert training.made_of(taken_of(poisoned), material, before, options=options, target=None, key=None) == 1
    [closed] = told
    assert closed.outcome == "dropped"
    assert closed.version == ""
    assert "falls by" in closed.reason
    assert wrote == []
    assert '"outcome": "dropped"' in capsys.readouterr().out


def test_what_was_planned_together_goes_into_quarantine(material, told, monkeypatch):
    honest = rows(120, 5)
    mark = np.zeros(WIDTH)
    mark[0] = 12.0
    rng = np.random.default_rng(8)
    marked = (CENTRES[1] + mark + rng.normal(size=(60, WIDTH))).astype(np.float16)
    joined = Rows(np.concatenate([honest.latents, marked]), np.concatenate([honest.labels, np.zeros(60, int)]))
    made(taken_of(joined), material, monkeypatch)
    [closed] = told
    assert len(set(closed.quarantined) & set(range(121, 181))) >= 54
    assert len(set(closed.quarantined) & set(range(1, 121))) <= 6


def test_too_few_labels_make_no_update(material, told, monkeypatch, capsys):
    assert made(taken_of(rows(training.ITEMS_MIN - 1, 5)), material, monkeypatch) == 1
    assert "takes 20" in told[0].reason
    assert made(pb.TakeFeedbackBatchResponse(batch=8), material, monkeypatch, json=False) == 1
    assert "thrown out" in capsys.readouterr().err


def test_a_trainer_that_fails_closes_its_batch(material, told, monkeypatch, tmp_path):
    def broken(*_):
        raise OSError("the disk is full")

    def asked(method, request, reply, options, *, service):
        if method == "TakeBatch":
            return taken_of(rows(120, 5))
        told.append(request)
        return reply()

    model = SimpleNamespace(serve="1")
    config = SimpleNamespace(bundles=SimpleNamespace(directory=tmp_path, trusted_keys=()))
    monkeypatch.setattr(training, "open_registry", lambda _: SimpleNamespace(model=lambda _: model, config=config))
    monkeypatch.setattr(training, "open_signing_key", lambda _: None)
    monkeypatch.setattr(training, "material_of", lambda *_: material)
    monkeypatch.setattr(training, "asked", asked)
    monkeypatch.setattr(training, "written", broken)
    options = SimpleNamespace(file=tmp_path, model="kiosk", version=9, signing_key=None, json=True)
    assert training.run(options) == 2
    [closed] = told
    assert (closed.outcome, closed.reason) == ("dropped", "the trainer failed: OSError")
