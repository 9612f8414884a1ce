"""A mixture of experts in this process: the sparse path for few rows, its dense twin for many.

The bundle of such a model has these graphs, found by their names:

| graph | takes | gives |
|---|---|---|
| `dense` | the declared inputs | every declared output, by itself |
| `router` | the declared inputs | `chosen` INT64 (rows, k), `gates` FP32 (rows, k), and declared outputs of its own |
| `expert-0`, `expert-1`, ... | declared inputs, by name | `parts` FP32 (rows, width) |
| `head` | `mixed` FP32 (rows, width) | the other declared outputs |

`mixed` is the sum of the chosen experts' parts, each times its gate (Shazeer et al., arXiv 1701.06538, section 2). A
row is always added up from the lowest expert to the highest, so it gets the same bits whatever stands beside it.

A row has a bounded number of experts, each once, and there is no capacity that neighbours in a batch could use up
(Hayes et al., arXiv 2402.05526): a router that breaks this fails the run. How evenly the last rows of the sparse path
chose is seen in `routing`.

The dense twin computes the same function in one graph, which is faster where many rows ask for most experts. The two
round differently: their outputs are held to each other when the engine is made, and one may answer what the other would
have, within `PATHS_APART_MAX`. From how many rows the twin answers is measured then too, because it is the machine's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import DATATYPES, TensorSpec
from serving.engines.engine import Engine
from serving.engines.inprocess import InProcessEngine, Session, open_session
from serving.errors import BackendFailed, EngineClosed, GraphRejected

ROUTER, HEAD = "router", "head"
PATHS_APART_MAX = 1e-4
"""Absolute, of every declared output, between the paths."""
EXPERTS_ACTIVE_MAX = 8
"""Experts of one row."""
PROBE_ROWS = 64
WINDOW_ROWS, ROWS_MIN = 10_000, 200  # of the routing that is watched
TIMED_RUNS = 5

Arrays = Mapping[str, NDArray[Any]]


def expert_graph(number: int) -> str:
    """Return the name of an expert's graph."""
    return f"expert-{number}"


def open_engine(bundle: Bundle) -> Engine:
    """Return what runs this bundle here: the experts where it has them, else its dense graph alone.

    Raises:
        GraphRejected: the runtime refuses a graph, or they do not fit together.
    """
    return ExpertsEngine(bundle) if ROUTER in bundle.graphs else InProcessEngine(bundle)


class RoutingWindow:
    """How often each of `experts` was chosen among about the last WINDOW_ROWS rows: old ones count less and less.

    It shows that a caller steers all rows to one. A batch thread adds and another reads, and a count that is one batch
    behind does no harm.
    """

    def __init__(self, experts: int) -> None:
        self._counts = np.zeros(experts)
        self._rows = 0

    def add(self, chosen: NDArray[np.int64]) -> None:
        """Take in the choices of a batch, (rows, k)."""
        keep = (1.0 - 1.0 / WINDOW_ROWS) ** len(chosen)
        self._counts = self._counts * keep + np.bincount(chosen.ravel(), minlength=self._counts.size)
        self._rows += len(chosen)

    def entropy(self) -> float | None:
        """Return how evenly experts were chosen: 1 where all alike, 0 where one always.

        It is the entropy of their shares over its largest possible value; None before ROWS_MIN rows, and where there is
        only one expert.
        """
        if self._rows < ROWS_MIN or self._counts.size == 1:
            return None
        shares = self._counts[self._counts > 0] / self._counts.sum()
        return float(-(shares * np.log(shares)).sum() / math.log(self._counts.size))


@dataclass(frozen=True, slots=True)
class _Sparse:
    """The sessions of the sparse path, and the names that each takes and gives."""

    model: str
    router: Session
    router_outputs: tuple[str, ...]
    experts: tuple[Session, ...]
    expert_inputs: tuple[tuple[str, ...], ...]
    head: Session
    head_outputs: tuple[str, ...]
    window: RoutingWindow

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return every output of router and head. It raises what the runtime raises."""
        routed = dict(zip(self.router_outputs, self.router.run(self.router_outputs, dict(inputs)), strict=True))
        chosen, gates = routed.pop("chosen"), routed.pop("gates")
        if chosen.min() < 0 or chosen.max() >= len(self.experts):
            raise BackendFailed(self.model, "the router chose an expert that is not there")
        self._bound(chosen)
        self.window.add(chosen)
        mix = self._one_row if len(chosen) == 1 else self._many_rows
        mixed = self.head.run(self.head_outputs, {"mixed": mix(inputs, chosen, gates)})
        return routed | dict(zip(self.head_outputs, mixed, strict=True))

    def _bound(self, chosen: NDArray[Any]) -> None:
        """Raise BackendFailed where a row has more experts than it may, or one of them twice."""
        if chosen.shape[1] > EXPERTS_ACTIVE_MAX:
            raise BackendFailed(self.model, f"the router chose more than {EXPERTS_ACTIVE_MAX} experts for a row")
        ordered = np.sort(chosen, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise BackendFailed(self.model, "the router chose an expert twice for a row")

    def _one_row(self, inputs: Arrays, chosen: NDArray[Any], gates: NDArray[Any]) -> NDArray[Any]:
        pairs = sorted(zip(chosen[0].tolist(), gates[0], strict=True))
        mixed = np.zeros((1, 1), gates.dtype)
        for expert, gate in pairs:
            mixed = mixed + gate * self._parts(expert, inputs)
        return mixed

    def _many_rows(self, inputs: Arrays, chosen: NDArray[Any], gates: NDArray[Any]) -> NDArray[Any]:
        mixed: NDArray[Any] | None = None
        for expert in np.unique(chosen).tolist():
            rows, places = np.nonzero(chosen == expert)
            taken = {name: inputs[name][rows] for name in self.expert_inputs[expert]}
            parts = gates[rows, places, None] * self._parts(expert, taken)
            if mixed is None:
                mixed = np.zeros((len(chosen), parts.shape[1]), parts.dtype)
            mixed[rows] += parts
        assert mixed is not None  # at least one row, and each has chosen
        return mixed

    def _parts(self, expert: int, inputs: Arrays) -> NDArray[Any]:
        taken = {name: inputs[name] for name in self.expert_inputs[expert]}
        return np.asarray(self.experts[expert].run(["parts"], taken)[0])


class ExpertsEngine:
    """Implements `serving.engines.engine.Engine` over the graphs of a mixture."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        crossover_rows: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Build all sessions, hold the paths to each other, and find the crossover.

        `crossover_rows`: from how many rows on the dense twin answers, instead of measuring it with `clock` (seconds).

        Raises:
            GraphRejected: the runtime refuses a graph, graphs do not fit together, or the paths disagree.
        """
        self._model = f"{bundle.name}/{bundle.version}"
        self._specs = bundle.outputs
        self._dense = InProcessEngine(bundle)
        self._sparse: _Sparse | None = _open_sparse(bundle, self._model)
        self._crossover_rows = PROBE_ROWS + 1
        probe = _probe(bundle.inputs)
        self._hold_together(probe)
        self._crossover_rows = crossover_rows or self._measured(probe, clock)

    @property
    def crossover_rows(self) -> int:
        """From how many rows on the dense twin answers."""
        return self._crossover_rows

    @property
    def routing(self) -> float | None:
        """How evenly the last rows of the sparse path chose their experts, 0 to 1; None where few have."""
        return None if self._sparse is None else self._sparse.window.entropy()

    def infer(self, inputs: Arrays, /) -> Arrays:
        """Return the declared outputs; see `Engine`."""
        sparse = self._sparse  # a running call keeps the sessions alive past close()
        if sparse is None:
            raise EngineClosed(self._model)
        if _rows(inputs) >= self._crossover_rows:
            return self._dense.infer(inputs)
        try:
            outputs = sparse.run(inputs)
        except BackendFailed:
            raise
        except Exception as error:  # the runtime's exceptions have no root of their own
            raise BackendFailed(self._model, str(error)) from error
        return {spec.name: outputs[spec.name] for spec in self._specs}

    def ready(self) -> bool:
        """True until closed: there is no backend apart from this process."""
        return self._sparse is not None

    def close(self) -> None:
        """Refuse further calls; the sessions go when the last running call returns."""
        self._sparse = None

    def _hold_together(self, probe: Arrays) -> None:
        """Raise GraphRejected unless both paths give every declared output, and the same."""
        try:
            dense, sparse = self._dense.infer(probe), self.infer(probe)
        except (BackendFailed, KeyError) as error:
            problem = error.problem if isinstance(error, BackendFailed) else f"no graph gives the output {error}"
            raise GraphRejected(self._model, problem) from error
        for spec in self._specs:
            found, wanted = sparse[spec.name], dense[spec.name]
            if found.shape != wanted.shape or found.dtype != wanted.dtype:
                raise GraphRejected(self._model, f"the experts give {spec.name} in another form than the dense graph")
            if not np.allclose(found, wanted, rtol=0, atol=PATHS_APART_MAX):
                raise GraphRejected(self._model, f"the experts' {spec.name} is not that of the dense graph")

    def _measured(self, probe: Arrays, clock: Callable[[], float]) -> int:
        rows = 1
        while rows <= PROBE_ROWS:
            part = {name: array[:rows] for name, array in probe.items()}
            if _seconds(partial(self._dense.infer, part), clock) < _seconds(partial(self.infer, part), clock):
                return rows
            rows *= 2
        return rows


def _rows(inputs: Arrays) -> int:
    """Rows of the first input; none where it is no batch at all, which the runtime then refuses."""
    first = next(iter(inputs.values()), None)
    return len(first) if first is not None and first.ndim else 0


def _seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    times = []
    for _ in range(TIMED_RUNS):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)  # what else the machine does can only make a run longer


def _probe(specs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
    """Return rows anywhere in the declared ranges, 0 to 1 where none is declared; always the same ones."""
    rng = np.random.default_rng(0)
    probe: dict[str, NDArray[Any]] = {}
    for spec in specs:
        low, high = 0.0 if spec.low is None else spec.low, 1.0 if spec.high is None else spec.high
        drawn = rng.uniform(low, high, (PROBE_ROWS, *spec.shape[1:]))
        probe[spec.name] = drawn.astype(DATATYPES[spec.datatype])
    return probe


def _open_sparse(bundle: Bundle, model: str) -> _Sparse:
    experts: list[Session] = []
    while (name := expert_graph(len(experts))) in bundle.graphs:
        experts.append(_opened(bundle, model, name))
    router, head = _opened(bundle, model, ROUTER), _opened(bundle, model, HEAD)
    if len(bundle.graphs) != len(experts) + 3:  # dense, router, head
        raise GraphRejected(model, "its graphs are not dense, router, head and experts numbered from 0")
    if not experts or not {"chosen", "gates"} <= set(_outputs(router)):
        raise GraphRejected(model, "it has no experts, or its router gives no `chosen` and `gates`")
    declared = {spec.name for spec in bundle.inputs}
    taken = tuple(tuple(node.name for node in session.get_inputs()) for session in experts)
    if not all(set(names) <= declared for names in taken):
        raise GraphRejected(model, "an expert takes what is not a declared input")
    window = RoutingWindow(len(experts))
    return _Sparse(model, router, _outputs(router), tuple(experts), taken, head, _outputs(head), window)


def _opened(bundle: Bundle, model: str, graph: str) -> Session:
    if graph not in bundle.graphs:
        raise GraphRejected(model, f"the bundle has no graph named {graph}")
    try:
        return open_session(bundle.graphs[graph], 1)
    except Exception as error:  # the runtime's exceptions have no root of their own
        raise GraphRejected(model, f"{graph}: {error}") from error


def _outputs(session: Session) -> tuple[str, ...]:
    return tuple(node.name for node in session.get_outputs())
