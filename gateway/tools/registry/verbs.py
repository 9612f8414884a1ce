"""What `stockade models list|evaluate|approve|promote|rollback|diff` and `stockade keys approver` do.

Exit codes: 0 done; 1 done, and the answer is no (a gate that does not pass, a version that may not be served);
2 something that cannot be used, or is not there.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from gateway.policy.promotion import limits_of
from gateway.tools.registry.bundles import trusted_keys
from gateway.tools.registry.data import held_out, sample_of
from gateway.tools.registry.evaluate import differing, evaluate, measured_again, strength_of
from gateway.tools.registry.registry import RegistryRefused, approve, open_registry, parse_version, rewrite, saying
from gateway.tools.registry.view import (
    differences,
    render_differences,
    render_evaluation,
    render_versions,
    version_json,
)
from gateway.tools.terminal import EX_NO, err, print_json, terminal
from serving.bundles.bundle import load_bundle
from serving.registry.approval import key_hex, make_key, read_key
from serving.registry.dataset import parse_dataset, read_dataset
from serving.registry.evaluation import encode
from serving.registry.evidence import EVALUATION_FILE, write_file
from serving.registry.gates import Thresholds, judge
from serving.registry.labels import SUSPECT_MIN
from serving.registry.measure import LABELS_SUSPECT
from serving.registry.proof import About
from serving.train.errors import DatasetMissing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gateway.policy.policy import Policy
    from gateway.policy.promotion import Promotion
    from gateway.tools.registry.evaluate import Source
    from gateway.tools.registry.registry import Registry
    from serving.bundles.bundle import Bundle
    from serving.registry.evaluation import Evaluation

KEY_BYTES_MAX = 64 * 1024
CANARY = {"steps": [0.01, 0.1, 0.5, 1], "step_every": "10m"}


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


def now() -> str:
    """Return the time as evidence writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@saying
def run_list(options: SimpleNamespace) -> int:
    versions = list(open_registry(options.file).versions())
    if options.json:
        print_json([version_json(each) for each in versions])
    else:
        render_versions(versions, terminal)
    return 0


@saying
def run_evaluate(options: SimpleNamespace) -> int:
    registry, bundle, baseline, promotion = subjects(options)
    limits = registry.rule(bundle.name).limits if registry is not None and promotion is not None else Thresholds()
    file = registry.directory(bundle.name, bundle.version) / EVALUATION_FILE if registry is not None else None
    if file is not None:
        require_unsigned(file, replace=options.replace)
    evaluation = evaluate(
        bundle,
        baseline,
        source_of(options, bundle),
        strength=strength_of(promotion),
        limits=limits,
        seed=options.seed,
        build=version("stockade"),
        moment=now(),
    )
    if file is not None:
        for old in approvals_in(file.parent):
            old.unlink()
        write_file(file, encode(evaluation))
    for warning in warnings_of(evaluation):
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}")
    if options.json:
        say(encode(evaluation).decode().rstrip())
    else:
        render_evaluation(evaluation, evaluation.gates, terminal)
        if file is not None:
            say(f"written   {file}")
    return 0 if all(gate.passed for gate in evaluation.gates) else EX_NO


def warnings_of(evaluation: Evaluation) -> Iterator[str]:
    """Yield what somebody should know before believing the numbers."""
    doubted = evaluation.metrics.get(LABELS_SUSPECT)
    if doubted is not None and doubted.low is not None and doubted.low > SUSPECT_MIN:
        yield (
            f"{evaluation.dataset.file}: about {doubted.value:.1%} ({doubted.low:.1%} to {doubted.high:.1%}) "
            "of the labels contradict the model beyond what its own doubts explain; were they changed, or is the model "
            "wrong? Look before you believe these numbers"
        )


def subjects(
    options: SimpleNamespace,
) -> tuple[Registry | None, Bundle, Bundle | None, Promotion | None]:
    """Return the files of the host, the bundle, what it is compared with, and what the policy asks of the model."""
    if options.config is None:
        keys = trusted_keys(options)
        bundle = load_bundle(options.directory, keys)
        against = options.directory.parent / options.against if options.against else None
        return None, bundle, load_bundle(against, keys) if against is not None else None, None
    registry = open_registry(options.config)
    trusted = registry.config.bundles.trusted_keys
    bundle = load_bundle(options.directory, trusted)
    model = registry.model(bundle.name)
    there = registry.bundle(bundle.name, bundle.version)
    if there.digest != bundle.digest:
        raise RegistryRefused(f"{options.directory} is not the bundle in {registry.config.bundles.directory}")
    other = options.against or (model.serve if model.serve != bundle.version else None)
    return registry, bundle, registry.bundle(bundle.name, other) if other is not None else None, model.promotion


def source_of(options: SimpleNamespace, bundle: Bundle) -> Source:
    """Return where the labelled data comes from: the file that was named, or the model's own test set.

    Where that is not installed, the sample that comes with the project stands in for it, and the person is told.
    Raises RegistryRefused where nobody knows any data.
    """
    if options.data is not None:
        return partial(read_dataset, options.data)
    try:
        found = held_out(bundle)
    except DatasetMissing as problem:
        sample = sample_of(bundle)
        if sample is None:
            raise
        err.print(f"{problem}\nmeasured on {sample.name} instead, which comes with the project", markup=False)
        return partial(read_dataset, sample)
    if found is None:
        raise RegistryRefused(f"nobody knows labelled data for {bundle.name}; name a file with --data")
    name, data = found
    return partial(parse_dataset, data, name)


def require_unsigned(file: Path, *, replace: bool) -> None:
    """Return if an evaluation may be written over what is there. Raises RegistryRefused."""
    signed = sorted(each.stem for each in approvals_in(file.parent))
    if signed and not replace:
        problem = f"{file} was signed by {', '.join(signed)}"
        raise RegistryRefused(f"{problem}; a new one takes their signatures away: say --replace if that is meant")


def approvals_in(directory: Path) -> Sequence[Path]:
    """Return the files of approvals in a directory of evidence."""
    return [each for each in directory.glob("*.json") if each.name != EVALUATION_FILE]


@saying
def run_approve(options: SimpleNamespace) -> int:
    registry = open_registry(options.file)
    name, number = parse_version(options.version)
    bundle = registry.bundle(name, number)
    with options.key.open("rb") as opened:
        key = read_key(opened.read(KEY_BYTES_MAX), str(options.key))
    about, evaluation = About(name, number, bundle.digest), registry.evidence(name, number).evaluation
    if options.data is not None and evaluation is not None:
        require_repeatable(registry, bundle, evaluation, options.data)
    file = approve(registry, about, options.approver, key, override=options.override, time=now())
    if evaluation is not None:
        gates = judge(evaluation.metrics, evaluation.decided, evaluation.attacked, registry.rule(name).limits)
        render_evaluation(evaluation, gates, terminal)
    say(f"{'approved' if options.override is None else 'overridden'}  {name}/{number} by {options.approver}: {file}")
    return 0


def require_repeatable(registry: Registry, bundle: Bundle, evaluation: Evaluation, data: Path) -> None:
    """Measure again, and return if the evaluation says the same, times aside. Raises RegistryRefused."""
    other = evaluation.baseline
    baseline = registry.bundle(bundle.name, other.version) if other is not None else None
    again = measured_again(evaluation, bundle, baseline, partial(read_dataset, data))
    if found := differing(evaluation, again):
        raise RegistryRefused(f"measured again, the evaluation says something else: {', '.join(found)}")


@saying
def run_promote(options: SimpleNamespace) -> int:
    registry = open_registry(options.file)
    name, number = parse_version(options.version)
    serve, release = number, dict[str, Any]()
    if options.min_labels and not options.canary:
        raise RegistryRefused("--min-labels is for a canary; say --canary as well")
    if options.canary:
        waits = {"min_labels": options.min_labels} if options.min_labels else {}
        serve, release = registry.model(name).serve, {"canary": {"version": number, **CANARY, **waits}}
    elif options.shadow is not None:
        serve, release = registry.model(name).serve, {"shadow": {"version": number, "rate": options.shadow}}
    registry.model(name)
    return told(rewrite(registry, name, serve, release or None, options.key), options)


@saying
def run_rollback(options: SimpleNamespace) -> int:
    registry = open_registry(options.file)
    if "/" in options.version:
        name, serve = parse_version(options.version)
        registry.model(name)
    else:
        name = options.version
        serve = version_before(registry, name)
    return told(rewrite(registry, name, serve, None, options.key), options)


def version_before(registry: Registry, name: str) -> str:
    """Return what a rollback goes back to: `serve` where a release is under way, else what that was compared with."""
    model = registry.model(name)
    if model.release is not None:
        return str(model.serve)
    evaluation = registry.evidence(name, model.serve).evaluation
    if evaluation is None or evaluation.baseline is None:
        raise RegistryRefused(f"nothing says what {name} version {model.serve} replaced; name it: {name}/VERSION")
    return str(evaluation.baseline.version)


def told(policy: Policy, options: SimpleNamespace) -> int:
    """Say what is to be done next."""
    say(f"wrote revision {policy.revision}, digest {policy.digest}")
    steps = [f"stockade policy reload {options.file}"]
    if options.key is None:
        steps.insert(0, f"stockade policy sign {options.file}")
    for step in steps:
        say(f"next: {step}")
    return 0


@saying
def run_diff(options: SimpleNamespace) -> int:
    registry = open_registry(options.file)
    promotion = registry.model(options.model).promotion
    sides = [
        (registry.bundle(options.model, number), registry.evidence(options.model, number).evaluation)
        for number in (options.one, options.other)
    ]
    found = differences(sides[0], sides[1], limits_of(promotion) if promotion is not None else None)
    if options.json:
        print_json({name: [one, other] for name, one, other in found})
    else:
        render_differences(found, (f"version {options.one}", f"version {options.other}"), terminal)
    return 0


@saying
def run_key(options: SimpleNamespace) -> int:
    public = key_hex(make_key(options.out))
    if options.json:
        print_json({"name": options.name, "file": str(options.out), "key": public})
    else:
        say(f'{options.name}: {{key: "{public}"}}')
    return 0
