"""A gateway that takes labels: a small model whose latent and class follow from an image's mean, and its clients."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from defenses.labels.feedback import fit_consistency
from gateway.config.place import place_of
from gateway.request.labels.provenance import Statement, signed_item
from gateway.request.labels.store import FILE, FeedbackStore
from serving.bundles.bundle import Bundle, assemble
from serving.train.pack import seal, tensor_bytes
from stockade.v1.feedback_pb2 import FeedbackItem, SubmitFeedbackRequest, SubmitFeedbackResponse
from tests.e2e.caller import Reply, infer_body
from tests.e2e.site import Change, Site
from tests.gateway.rig import HeldEngine, Rig, ended, open_rig
from tests.serving.tiny import CLASSES, WIDTH, signing_key, tiny_files, tiny_manifest, trusted

SUBMIT = "/stockade.v1.Feedback/Submit"
MODEL = "labelled"
NAMES = ("a", "b", "c")
SIGNERS = ("plenty", "token-user", "rival", "costly")


@cache
def signer(name: str) -> Ed25519PrivateKey:
    """The key with which a principal of the tests signs labels."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def latents_of(labels: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Rows whose place says their class."""
    return (10 * np.eye(CLASSES, WIDTH)[labels] + rng.normal(size=(len(labels), WIDTH))).astype(np.float32)


@cache
def trusted_arrays() -> Mapping[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    fit, held = np.arange(90) % CLASSES, np.arange(900) % CLASSES
    return fit_consistency((latents_of(fit, rng), fit), (latents_of(held, rng), held))


@cache
def labelled_sealed(version: str = "1") -> Mapping[str, bytes]:
    roles = {"prediction": ["probabilities"], "latent": ["latent"]}
    promised = {"accuracy": 0.9, "calibration_error": 0.05}
    manifest = tiny_manifest(version) | {"name": MODEL, "roles": roles, "metrics": promised}
    files = tiny_files() | {"calibration.safetensors": tensor_bytes(trusted_arrays())}
    return seal(files, manifest, signing_key())


def labelled_bundle(version: str = "1") -> Bundle:
    return assemble(labelled_sealed(version), (trusted(),))


def spread(outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the model says of images with this mean: below a third class a, then b, then c."""
    means = outputs["energy"]
    classes = np.clip((means * CLASSES).astype(int), 0, CLASSES - 1)
    chosen = np.eye(CLASSES, dtype=np.float32)[classes]
    latents = latents_of(classes, np.random.default_rng(7))
    return dict(outputs) | {"probabilities": chosen, "logits": chosen, "latent": latents}


def shown(label: str, rows: int = 1) -> np.ndarray[Any, Any]:
    """Images that the model takes for this class."""
    return np.full((rows, 28, 28), (NAMES.index(label) + 0.5) / CLASSES, np.float32)


def takes_labels(document: dict[str, Any]) -> None:
    """The policy of a gateway that takes labels of `labelled` from SIGNERS."""
    document["models"][MODEL] = {"serve": "1", "feedback": {"trusted": ["token-user"], "inconsistent": 0.05}}
    document["roles"]["predictor"] = [{"methods": ["*"], "models": ["*"]}]
    document["roles"]["rival"] = [{"methods": ["*"], "models": ["*"]}]
    for name in SIGNERS:
        document["principals"][name]["feedback_keys"] = [signer(name).public_key().public_bytes_raw().hex()]


@asynccontextmanager
async def labelled_rig(made_site: Site, path: Path, *, policy: Change | None = None) -> AsyncIterator[Rig]:
    def change(document: dict[str, Any]) -> None:
        takes_labels(document)
        if policy is not None:
            policy(document)

    async with open_rig(made_site, path, policy=change, bundles=[labelled_bundle()]) as rig:
        engine = rig.gw.served[MODEL, "1"].engine
        assert isinstance(engine, HeldEngine)
        engine.answer = spread
        yield rig


async def ask(rig: Rig, label: str, *, rows: int = 1, caller: str = "plenty") -> Reply:
    """An inference about something of this class."""
    reply = await rig.ask(infer_body(shown(label, rows), model=MODEL), caller=caller)
    assert reply.reason == "OK", reply.details
    return reply


def item(
    request_id: str, label: str, *, caller: str = "plenty", key: str | None = None, **changes: Any
) -> FeedbackItem:
    """A signed label, now."""
    now = time.time_ns()
    said = {"row": 0, "model": MODEL, "version": "1", "confidence_micro": 0, "outcome_ns": now, "signed_ns": now}
    statement = Statement(request=bytes.fromhex(request_id), label=label, **(said | changes))
    return signed_item(statement, caller, signer(key or caller))


async def submit(rig: Rig, items: Sequence[FeedbackItem], *, caller: str = "plenty") -> Reply:
    body = SubmitFeedbackRequest(items=items).SerializeToString()
    return await ended(rig.channel.unary_unary(SUBMIT)(body, metadata=rig.site.bearer(caller)))


async def results(rig: Rig, items: Sequence[FeedbackItem], *, caller: str = "plenty") -> list[tuple[str, str]]:
    """What came of each item: (disposition, reason)."""
    reply = await submit(rig, items, caller=caller)
    assert reply.reason == "OK", reply.details
    return [(each.disposition, each.reason) for each in SubmitFeedbackResponse.FromString(reply.body).results]


def store_of(rig: Rig) -> FeedbackStore:
    return FeedbackStore(place_of(rig.app.config).memory.with_name(FILE))


def said(rig: Rig) -> list[dict[str, Any]]:
    """The entries of labels, in their order."""
    return rig.sink.records(kind="feedback")
