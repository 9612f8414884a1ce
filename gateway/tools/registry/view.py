"""What `stockade models list`, `evaluate` and `diff` print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from rich.markup import escape
from rich.table import Table

from gateway.tools.registry.evaluate import lineage_of
from serving.registry.gates import judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console

    from gateway.tools.registry.registry import Version
    from serving.bundles.bundle import Bundle
    from serving.registry.evaluation import Evaluation, GateResult, Measure
    from serving.registry.gates import Thresholds

DIGEST_SHOWN = 12
STATE_COLOURS = {"served": "green", "unapproved": "yellow", "rejected": "red"}
MISSING = "-"


def version_json(version: Version) -> dict[str, str]:
    """For machines."""
    return {
        "model": version.model,
        "version": version.version,
        "state": version.state,
        "digest": version.digest,
        "evidence": version.evidence,
    }


def render_versions(versions: Iterable[Version], console: Console) -> None:
    """Print a line for each version."""
    table = Table(pad_edge=False, box=None)
    for column in ("model", "version", "state", "digest", "evidence"):
        table.add_column(column, overflow="fold")
    for each in versions:
        colour = STATE_COLOURS.get(each.state, "default")
        state = f"[{colour}]{each.state}[/{colour}]"
        table.add_row(each.model, each.version, state, each.digest[:DIGEST_SHOWN], escape(each.evidence))
    console.print(table)


def render_evaluation(evaluation: Evaluation, gates: Iterable[GateResult], console: Console) -> None:
    """Print what was measured, and how these gates stand."""
    title = f"{evaluation.model} version {evaluation.version} on {evaluation.dataset.file}"
    table = Table(title=escape(title), title_justify="left", pad_edge=False, box=None)
    for column in ("", "value", "95 %", "rows"):
        table.add_column(column, justify="left" if not column else "right")
    for name, measure in sorted(evaluation.metrics.items()):
        table.add_row(name, f"{measure.value:.6g}", bounds(measure), f"{measure.rows:,}" if measure.rows else "")
    console.print(table)
    baseline = evaluation.baseline
    console.print(f"against   {f'version {baseline.version}' if baseline else 'no other version'}", markup=False)
    console.print(f"bundle    {evaluation.bundle}\ndataset   {evaluation.dataset.sha256}", markup=False)
    for gate in gates:
        console.print(f"gate      {gate_text(gate)}", markup=False)


def bounds(measure: Measure) -> str:
    """Return the interval of a measure."""
    return "" if measure.low is None or measure.high is None else f"{measure.low:.4f} to {measure.high:.4f}"


def gate_text(gate: GateResult) -> str:
    """Return a gate in a line."""
    found = "not measured" if gate.found is None else f"{gate.found:.6g}"
    return f"{gate.name} {gate.limit:g}: {found}, {'passed' if gate.passed else f'not passed ({gate.problem})'}"


Side = tuple["Bundle", "Evaluation | None"]


def differences(one: Side, other: Side, limits: Thresholds | None) -> list[tuple[str, str, str]]:
    """Return (what, of the one, of the other) for manifests, metrics, and gates under today's limits."""
    left, right = dict(facts(*one, limits)), dict(facts(*other, limits))
    names = list(dict.fromkeys([*left, *right]))
    return [(name, left.get(name, MISSING), right.get(name, MISSING)) for name in names]


def facts(bundle: Bundle, evaluation: Evaluation | None, limits: Thresholds | None) -> Iterator[tuple[str, str]]:
    """Yield what is known of a version, each under a name."""
    yield "digest", bundle.digest
    yield "inputs", ", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in bundle.inputs)
    yield "outputs", ", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in bundle.outputs)
    yield "bytes", f"{sum(each['bytes'] for each in bundle.manifest['files'].values()):,}"
    yield from flat("", lineage_of(bundle))
    yield from flat("manifest", {"metrics": shallow(bundle.manifest["metrics"])})
    if evaluation is None:
        yield "evaluation", "none"
        return
    yield "evaluation", f"{evaluation.time} on {evaluation.dataset.sha256[:DIGEST_SHOWN]}"
    for name, measure in sorted(evaluation.metrics.items()):
        yield name, f"{measure.value:.6g}" + (f" ({bounds(measure)})" if bounds(measure) else "")
    if limits is not None:
        for gate in judge(evaluation.metrics, evaluation.decided, evaluation.attacked, limits):
            yield f"gate {gate.name}", gate_text(gate).partition(": ")[2]


def shallow(metrics: Any) -> dict[str, Any]:
    """Return the numbers of a manifest's metrics, without its tables."""
    return {name: value for name, value in metrics.items() if isinstance(value, int | float | str)}


def flat(at: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a JSON object by their paths."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(f"{at}.{key}" if at else str(key), item)
    else:
        yield at, value if isinstance(value, str) else msgspec.json.encode(value).decode()


def render_differences(found: Iterable[tuple[str, str, str]], names: tuple[str, str], console: Console) -> None:
    """Print both sides; what differs stands out."""
    table = Table(pad_edge=False)
    for column in ("", *names):
        table.add_column(column, overflow="fold")
    for name, one, other in found:
        table.add_row(escape(name), escape(one), escape(other), style="" if one == other else "bold")
    console.print(table)
