"""`stockade feedback train`: takes a batch of a running gateway, makes a candidate of it, or throws it out.

take the batch → what was planned together goes into quarantine → learn a head → hold it against trusted rows and canary
triggers → write a signed candidate, or nothing → say so to the gateway, which has it in its log

A candidate is a bundle like any other: it is served when the policy names it, and where the policy asks for proof, when
its approvers gave it (docs/how-to/promotion.md). Nothing here can put it into service.

Exit codes: 0 a candidate was written; 1 the batch was thrown out, or there was none; 2 it cannot be done.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from defenses.errors import DefenseError
from defenses.labels.batch import clustered, spectral
from defenses.screens.evidence import fit_evidence, measure_evidence
from gateway.config.document import FileRejected
from gateway.tools.operations.labels import SERVICE
from gateway.tools.operations.tenants import asked
from gateway.tools.operator import OperatorFailed
from gateway.tools.registry.refit import fitted_again
from gateway.tools.registry.registry import RegistryRefused, open_registry
from gateway.tools.terminal import EX_NO, fail, print_json
from serving.errors import ServingError
from serving.train.errors import TrainingError
from serving.train.pack import open_signing_key, seal, write_bundle
from serving.train.report import ScreenFitter
from stockade.v1 import feedback_pb2 as pb

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from gateway.tools.registry.registry import Registry
    from serving.bundles.bundle import Bundle
    from serving.train.feedback import Measured
    from serving.train.feedback_bundle import Learned, Material

TRUSTED_ROWS = 10_000
BATCH_ALPHA = 0.01  # of trusted rows stand out as much
ITEMS_MIN = 20

err = Console(stderr=True, highlight=False)


def run_verb(_: str, options: argparse.Namespace) -> int:
    """Run the verb; what is wrong is said in a sentence."""
    try:
        return train(options)
    except (OperatorFailed, RegistryRefused, FileRejected, ServingError, TrainingError, DefenseError) as problem:
        return fail(problem)
    except OSError as problem:
        return fail(problem)
    except ModuleNotFoundError as missing:
        return fail(f"this needs {missing.name}: pip install 'stockade[train]'")


def train(options: argparse.Namespace) -> int:
    """Make a candidate of the labels that a running gateway holds."""
    from serving.train.feedback import measured
    from serving.train.feedback_bundle import kiosk_material

    registry = open_registry(options.file)
    served = registry.model(options.model).serve
    target = registry.config.bundles.directory / options.model / str(options.version)
    if target.exists():
        return fail(f"{target} is there already; name another version")
    key = open_signing_key(options.signing_key)  # what cannot be signed is found before a batch is taken
    with err.status("running the model on trusted rows"):
        material = material_of(registry, options, served, kiosk_material)
    before = measured(material.head, material.held_out, material.triggered)
    request = pb.TakeFeedbackBatchRequest(
        model=options.model, version=served, trusted_rows=len(material.trusted.labels)
    )
    taken = asked("TakeBatch", request, pb.TakeFeedbackBatchResponse, options, service=SERVICE)
    try:
        return made_of(taken, material, before, options=options, target=target, key=key)
    except BaseException as problem:  # nobody else would ever close the batch
        with contextlib.suppress(OperatorFailed):
            close(taken.batch, "dropped", f"the trainer failed: {type(problem).__name__}", options)
        raise


def made_of(
    taken: pb.TakeFeedbackBatchResponse,
    material: Material,
    before: Measured,
    *,
    options: argparse.Namespace,
    target: Path,
    key: ec.EllipticCurvePrivateKey,
) -> int:
    """Make a candidate of a batch, or throw it out."""
    from serving.train.feedback import LearnSettings, Limits, Rows, fine_tune, measured, objection
    from serving.train.feedback_bundle import Learned

    for who in taken.suspects:
        err.print(f"suspected: {who}; its labels are in quarantine", markup=False)
    planned = planned_items(taken, material)
    kept = [item for item in taken.items if item.id not in planned]
    if len(kept) < ITEMS_MIN:
        reason = f"{len(kept)} labels are left, and an update takes {ITEMS_MIN}"
        return thrown_out(taken.batch, reason, planned, options)
    latents = np.frombuffer(b"".join(item.latent for item in kept), "<f2").reshape(len(kept), taken.width)
    rows = Rows(latents, np.array([item.label for item in kept]))
    settings = LearnSettings()
    head = fine_tune(material.head, material.trusted, rows, settings)
    after = measured(head, material.held_out, material.triggered)
    alone = fine_tune(material.head, None, material.trusted, settings)
    twin = measured(alone, material.held_out, material.triggered)
    reason = objection(before, after, twin, Limits())
    if reason:
        return thrown_out(taken.batch, reason, planned, options)
    learned = Learned(head, taken.batch, len(kept), settings, before, after)
    bundle = written(material, learned, options, target, key)
    close(taken.batch, "learned", "passed what is asked here", options, planned=planned, bundle=bundle)
    return told(bundle, learned, taken, len(planned), options)


def material_of(registry: Registry, options: argparse.Namespace, served: str, made: Any) -> Material:
    """Return what an update of the served version needs."""
    directory = registry.config.bundles.directory / options.model / served
    trusted = registry.config.bundles.trusted_keys
    found: Material = made(directory, trusted, options.data, rows=TRUSTED_ROWS, seed=options.seed)
    return found


def planned_items(taken: pb.TakeFeedbackBatchResponse, material: Material) -> set[int]:
    """Return the items that stand out together among those of their label."""
    if not taken.items:
        return set()
    latents = np.frombuffer(b"".join(item.latent for item in taken.items), "<f2").reshape(len(taken.items), taken.width)
    items = latents, np.array([item.label for item in taken.items])
    trusted = material.trusted.latents, material.trusted.labels
    rng = np.random.default_rng(taken.batch)
    found = spectral(items, trusted, alpha=BATCH_ALPHA) | clustered(items, trusted, alpha=BATCH_ALPHA, rng=rng)
    return {item.id for item, planned in zip(taken.items, found.tolist(), strict=True) if planned}


def written(
    material: Material, learned: Learned, options: argparse.Namespace, target: Path, key: ec.EllipticCurvePrivateKey
) -> Bundle:
    """Write the candidate, signed."""
    from serving.train.feedback_bundle import candidate

    with err.status("fitting its screens"):
        made = candidate(material, learned, str(options.version), ScreenFitter(fit_evidence, measure_evidence))
    files, manifest = fitted_again(made, material.parts, key, options, err)
    return write_bundle(target, seal(files, manifest, key), key)


def thrown_out(batch: int, reason: str, planned: set[int], options: argparse.Namespace) -> int:
    """Say that nothing comes of a batch."""
    close(batch, "dropped", reason, options, planned=planned)
    if options.json:
        print_json({"batch": batch, "outcome": "dropped", "reason": reason})
    else:
        err.print(f"batch {batch} is thrown out: {reason}", markup=False)
    return EX_NO


def close(
    batch: int,
    outcome: str,
    reason: str,
    options: argparse.Namespace,
    *,
    planned: Collection[int] = (),
    bundle: Bundle | None = None,
) -> None:
    """Tell the gateway what became of a batch."""
    request = pb.CloseFeedbackBatchRequest(batch=batch, outcome=outcome, reason=reason, quarantined=sorted(planned))
    if bundle is not None:
        request.version, request.digest = bundle.version, bundle.digest
    asked("CloseBatch", request, pb.CloseFeedbackBatchResponse, options, service=SERVICE)


def told(
    bundle: Bundle,
    learned: Learned,
    taken: pb.TakeFeedbackBatchResponse,
    planned: int,
    options: argparse.Namespace,
) -> int:
    """Say what was made and what comes next."""
    facts = {
        "batch": taken.batch,
        "outcome": "learned",
        "items": learned.items,
        "planned": planned,
        "capped": taken.capped,
        "version": bundle.version,
        "digest": bundle.digest,
        "accuracy_before": learned.before.accuracy,
        "accuracy_after": learned.after.accuracy,
    }
    if options.json:
        print_json(facts)
        return 0
    name = f"{bundle.name}/{bundle.version}"
    lines = (
        f"written   {name} {bundle.digest}",
        f"learned   {learned.items} labels of batch {taken.batch}; {planned} stood out, {taken.capped} wait",
        f"held out  {learned.before.accuracy:.4f} before, {learned.after.accuracy:.4f} after",
        f"next: stockade models evaluate {options.file.parent / 'bundles' / name} --config {options.file}",
        f"next: stockade models promote {options.file} {name} --canary",
    )
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
