"""What sparsity is worth: a mixture's sparse path beside the best dense int8 and smaller ones, trained in one run.

Every model is trained by the same recipe on the same rows and asked through the engine that would serve it, on one
thread. Rounds go around all of them, so that a busy moment of the machine meets each; in its turn a model answers some
calls that are not counted, then some that are. `quality` is the share of held-out places whose region is right. Beside
them stand what is no network, the nearest of all training places, and weights pruned to one in twenty and kept as
compressed rows (CSR).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from sklearn.neighbors import KDTree

from serving.bundles.bundle import Bundle, assemble
from serving.bundles.signature import TrustedKey
from serving.engines.engine import Engine
from serving.engines.experts import ExpertsEngine
from serving.engines.inprocess import InProcessEngine
from serving.registry.measure import interval
from serving.train.pack import public_pem, seal, tensor_bytes
from serving.train.regions.graph import write_dense, write_mixture
from serving.train.regions.network import RegionNet, RegionSettings, train_regions
from serving.train.regions.places import Places, split_places

BATCHES = (1, 8, 64)
EQUAL_POINTS = 0.3
KEPT_SHARE = 0.05
ALWAYS_SPARSE = 1 << 30
ALONE_ROWS = 200
CALLS, UNCOUNTED = 24, 3
SPARSE, TWIN, DENSE = "mixture, sparse path", "mixture, dense twin", "dense"

Clock = Callable[[], float]
Say = Callable[[str], None]
Keep = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True, slots=True)
class SparsitySettings:
    """`smaller`: units of the smaller dense models, which stand beside; `rounds` of timing."""

    recipe: RegionSettings = field(default_factory=RegionSettings)
    smaller: tuple[int, ...] = (8_192, 12_288)
    seeds: int = 3
    rounds: int = 20
    rows_max: int | None = None


def compare_sparsity(
    places: Places, settings: SparsitySettings, say: Say, clock: Clock = time.perf_counter, keep: Keep | None = None
) -> dict[str, Any]:
    """Train, ask and time; return plain JSON. `say` is told what is being done, `keep` may know a seed's figures.

    `us`: by model and batch size, the median over rounds of a call on the first seed's models, in microseconds;
    `times_faster_than_dense`: the median of the rounds' ratios. `apart_points`: by how much the dense one is better.
    """
    keep = keep or (lambda _, measure: measure())
    found = [
        keep(f"sparsity-{seed}", partial(_of_seed, places, settings, seed, say, clock))
        for seed in range(settings.seeds)
    ]
    quality = {name: [each["quality"][name] for each in found] for name in found[0]["quality"]}
    return _report(places, settings, quality, found[0]["timed"])


def _of_seed(places: Places, settings: SparsitySettings, seed: int, say: Say, clock: Clock) -> dict[str, Any]:
    """Return the `quality` of each model, and of the first seed's models what is `timed`."""
    train, test = split_places(places, seed)
    test = test.take(np.arange(len(test))[: settings.rows_max])
    nets = _trained(train, replace(settings.recipe, seed=seed), settings.smaller, say)
    engines = _engines(nets, places.names)
    quality = {}
    for name, engine in engines.items():
        say(f"seed {seed}: asking {name}")
        quality[name] = _right(engine, test)
    quality["nearest place"] = _nearest(train, test)
    timed: dict[str, Any] = {}
    if seed == 0:
        say("timing")
        timed = _times(engines, test, settings.rounds, clock) | {"paths": _paths(engines, test)}
        timed["pruned"] = _pruned(nets[DENSE], test, settings.rounds, clock)
    return {"quality": quality, "timed": timed}


def region_bundle(net: RegionNet, names: Sequence[str]) -> Bundle:
    """Return a bundle in memory, sealed by a key that nobody keeps."""
    graphs = write_mixture(net) if net.cells is not None else {"dense": write_dense(net)}
    files = {f"{name}.onnx": graph for name, graph in graphs.items()}
    files |= {"weights.safetensors": tensor_bytes({"keys": net.keys, "radii": net.radii, "weights": net.weights})}
    files |= {"calibration.safetensors": tensor_bytes({})}
    shapes: dict[str, tuple[int, ...]] = {"probabilities": (len(names),), "energy": ()}
    if net.cells is not None:
        shapes["router_entropy"] = ()
    manifest = {
        "format": "stockade.bundle/1",
        "name": "regions",
        "version": "1",
        "inputs": [{"name": "direction", "datatype": "FP32", "shape": [-1, 3], "low": -1.0, "high": 1.0}],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, *sizes]} for name, sizes in shapes.items()],
        "class_names": list(names),
        "roles": {"prediction": ["probabilities"], "energy": ["energy"]},
        "graphs": {name: f"{name}.onnx" for name in graphs},
        "weights": "weights.safetensors",
        "calibration": "calibration.safetensors",
        **{key: {} for key in ("data", "training", "metrics", "calibration_report")},
        "gates": [],
    }
    key = ec.generate_private_key(ec.SECP256R1())
    return assemble(seal(files, manifest, key), (TrustedKey.from_pem(public_pem(key), "a key of this run"),))


def _trained(train: Places, recipe: RegionSettings, smaller: Sequence[int], say: Say) -> dict[str, RegionNet]:
    say(f"seed {recipe.seed}: training the mixture")
    nets = {SPARSE: train_regions(train, recipe, mixture=True)}
    for units in (recipe.units, *smaller):
        say(f"seed {recipe.seed}: training {units:,} dense units")
        name = DENSE if units == recipe.units else f"dense, {units:,} units"
        nets[name] = train_regions(train, replace(recipe, units=units), mixture=False)
    return nets


def _engines(nets: Mapping[str, RegionNet], names: Sequence[str]) -> dict[str, Engine]:
    engines: dict[str, Engine] = {}
    for name, net in nets.items():
        bundle = region_bundle(net, names)
        if net.cells is None:
            engines[name] = InProcessEngine(bundle)
        else:
            engines[name] = ExpertsEngine(bundle, crossover_rows=ALWAYS_SPARSE)
            engines[TWIN] = InProcessEngine(bundle)
    return engines


def _asked(engine: Engine, directions: NDArray[np.float32], rows: int) -> dict[str, NDArray[Any]]:
    """Return all outputs, asked for in batches."""
    parts = [engine.infer({"direction": directions[at : at + rows]}) for at in range(0, len(directions), rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _right(engine: Engine, test: Places) -> float:
    found = [
        engine.infer({"direction": test.directions[at : at + 64]})["probabilities"].argmax(1)
        for at in range(0, len(test), 64)
    ]
    return float((np.concatenate(found) == test.regions).mean())


def _nearest(train: Places, test: Places) -> float:
    found = KDTree(train.directions).query(test.directions)[1][:, 0]
    return float((train.regions[found] == test.regions).mean())


def _paths(engines: Mapping[str, Engine], test: Places) -> dict[str, Any]:
    """How far the two paths, and rows alone and among others, are apart: the largest absolute difference."""
    rows = test.directions[:1024]
    sparse, twin = _asked(engines[SPARSE], rows, 64), _asked(engines[TWIN], rows, 64)
    alone = _asked(engines[SPARSE], rows[:ALONE_ROWS], 1)
    return {
        "apart": {name: float(np.abs(sparse[name] - twin[name]).max()) for name in sparse},
        "rows_apart": {name: float(np.abs(alone[name] - sparse[name][:ALONE_ROWS]).max()) for name in alone},
    }


def _times(engines: Mapping[str, Engine], test: Places, rounds: int, clock: Clock) -> dict[str, Any]:
    found: dict[str, dict[str, float]] = {name: {} for name in engines}
    ratios: dict[str, dict[str, float]] = {name: {} for name in engines}
    for rows in BATCHES:
        taken: dict[str, list[float]] = {name: [] for name in engines}
        for place in range(rounds):
            for name, engine in engines.items():
                taken[name].append(_turn(engine, test, place, rows, clock))
        for name, seconds in taken.items():
            found[name][str(rows)] = round(median(seconds) * 1e6, 1)
            ratios[name][str(rows)] = round(median(np.array(taken[DENSE]) / np.array(seconds)), 2)
    return {"us": found, "times_faster_than_dense": ratios}


def _turn(engine: Engine, test: Places, turn: int, rows: int, clock: Clock) -> float:
    """Return the median of a turn's calls, in seconds."""
    taken = []
    calls = CALLS // max(1, rows // 8)
    for call in range(UNCOUNTED + calls):
        at = (turn * calls + call) * rows % (len(test) - rows)
        start = clock()
        engine.infer({"direction": test.directions[at : at + rows]})
        taken.append(clock() - start)
    return median(taken[UNCOUNTED:])


def _pruned(net: RegionNet, test: Places, rounds: int, clock: Clock) -> dict[str, float]:
    """The dense model with the largest twentieth of its weights, as CSR, on the same units."""
    least = np.quantile(np.abs(net.weights), 1 - KEPT_SHARE)
    kept = np.where(np.abs(net.weights) >= least, net.weights, 0).astype(np.float32)
    rows = csr_array(np.ascontiguousarray(kept.T))
    slope, offset = (2 * net.keys / net.radii[:, None] ** 2).T, 1 - 2 / net.radii**2

    def ask(directions: NDArray[np.float32]) -> NDArray[np.float32]:
        units = np.maximum(directions.astype(np.float64) @ slope + offset, 0).astype(np.float32)
        return np.asarray((rows @ units.T).T)

    taken = []
    for call in range(rounds * CALLS):
        start = clock()
        ask(test.directions[call % len(test)][None])
        taken.append(clock() - start)
    found = np.concatenate([ask(test.directions[at : at + 64]).argmax(1) for at in range(0, len(test), 64)])
    return {
        "kept_share": float((kept != 0).mean()),
        "quality": float((found == test.regions).mean()),
        "us": round(median(taken) * 1e6, 1),
    }


def _report(
    places: Places, settings: SparsitySettings, quality: Mapping[str, list[float]], timed: Mapping[str, Any]
) -> dict[str, Any]:
    dense = np.array(quality[DENSE])
    apart = {name: interval((100 * (dense - values)).tolist()) for name, values in quality.items()}
    equal = [units for units in sorted(settings.smaller) if apart[f"dense, {units:,} units"]["mean"] <= EQUAL_POINTS]
    smallest = f"dense, {equal[0]:,} units" if equal else DENSE
    ratio = timed["us"][smallest]["1"] / timed["us"][SPARSE]["1"]
    return {
        "task": "region of a place among the 1,024 largest (GeoNames, places of 1,000 people and more)",
        "data_sha256": places.sha256,
        "rows": len(places),
        "seeds": settings.seeds,
        "units": settings.recipe.units,
        "experts": f"top {settings.recipe.active} of {settings.recipe.experts}",
        "quality": {name: interval(values) for name, values in quality.items()},
        "apart_points": apart,
        **timed,
        "smallest_equal": {"model": smallest, "times_faster_than_it": round(ratio, 2), "points": EQUAL_POINTS},
    }
