"""The model's part in a batch: the rows of requests under the same rules, run together, and what came of them.

It only runs. What may leave of it is `gateway.request.batch`'s to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gateway import errors
from gateway.request.completion import log_failure
from serving.errors import BackendTimedOut, BackendUnavailable

if TYPE_CHECKING:
    from gateway.models.rules import ModelRules
    from gateway.request.gateway import Gateway
    from gateway.request.item import Item
    from serving.engines.engine import Engine

Tensors = Mapping[str, np.ndarray[Any, Any]]
Starts = np.ndarray[Any, np.dtype[np.intp]]


@dataclass(frozen=True, slots=True)
class Inferred:
    """Rows of all requests with what the model said of them, and how long it took. `starts`: the first of each."""

    inputs: Tensors
    starts: Starts
    rows: int
    outputs: Tensors
    took_ns: int

    def part(self, first: int, end: int) -> Inferred:
        """Return the rows of one request, from `first` to before `end`, with their share of the time."""
        inputs, outputs = (
            {name: values[first:end] for name, values in tensors.items()} for tensors in (self.inputs, self.outputs)
        )
        rows = end - first
        return Inferred(inputs, np.zeros(1, np.intp), rows, outputs, self.took_ns * rows // self.rows)


class Batch(NamedTuple):
    """Requests under the same rules, and what the model gave for them."""

    items: Sequence[Item]
    rules: ModelRules
    inferred: Inferred

    def by_request(self) -> Iterator[Batch]:
        """Yield each request alone, with what the model gave for it among the others."""
        ends = [*self.inferred.starts[1:].tolist(), self.inferred.rows]
        for item, first, end in zip(self.items, self.inferred.starts.tolist(), ends, strict=True):
            yield Batch([item], self.rules, self.inferred.part(first, end))


def infer_alike(items: Sequence[Item], batch_id: int, gw: Gateway) -> list[Batch]:
    """Run the model for requests under one version of the policy; when that fails for several, for each alone.

    In any thread. A request for which the model gave nothing is in no batch, and has its outcome.
    """
    rules = items[0].rules
    try:
        inferred = infer(items, rules.served.engine, gw.clock_ns)
    except (BackendUnavailable, BackendTimedOut) as problem:
        log_failure(gw.log, items[0].record.id, problem)
        for item in items:
            item.outcome = backend_refusal(problem)
        return []
    except Exception as problem:  # noqa: BLE001  an engine may be anybody's; alone, each request meets its own fault
        if len(items) > 1:
            return [batch for item in items for batch in infer_alike([item], batch_id, gw)]
        items[0].outcome = refusal_of(problem, items[0], gw)
        return []
    for position, item in enumerate(items):
        item.record.batch(batch_id, position, len(items), inferred.rows)
    return [Batch(items, rules, inferred)]


def infer(items: Sequence[Item], engine: Engine, clock_ns: Callable[[], int]) -> Inferred:
    """Run the model for the rows of all these requests.

    Raises what the engine raises, and ModelError where an output has other rows: no row can be told whose it is then.
    """
    inputs, starts = stack(items)
    began_ns = clock_ns()
    outputs = engine.infer(inputs)
    took_ns = clock_ns() - began_ns
    rows = sum([item.request.rows for item in items])
    if any(len(values) != rows for values in outputs.values()):
        raise errors.ModelError
    return Inferred(inputs, starts, rows, outputs, took_ns)


def refusal_of(problem: Exception, item: Item, gw: Gateway) -> errors.Refusal:
    """Return what the caller is told of a fault of the model or of our own; the log says where it was."""
    if isinstance(problem, errors.Refusal):
        return problem
    log_failure(gw.log, item.record.id, problem)
    return errors.ModelError()


def backend_refusal(problem: BackendUnavailable | BackendTimedOut) -> errors.Refusal:
    """Return what the caller is told when who runs the model gave no answer."""
    return errors.BackendTimedOut() if isinstance(problem, BackendTimedOut) else errors.BackendUnavailable()


def stack(items: Sequence[Item]) -> tuple[Tensors, Starts]:
    """Return the inputs of all items row on row, and the first row of each item."""
    if len(items) == 1:
        return items[0].request.inputs, np.zeros(1, np.intp)
    names = items[0].request.inputs
    inputs = {name: np.concatenate([item.request.inputs[name] for item in items]) for name in names}
    starts = np.zeros(len(items), np.intp)
    np.cumsum([item.request.rows for item in items[:-1]], out=starts[1:])
    return inputs, starts
