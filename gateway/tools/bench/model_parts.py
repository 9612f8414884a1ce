"""The parts of `stockade bench models`: each measures one thing and returns plain JSON. Heavy to import: it trains."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.screens.evidence import measure_evidence
from gateway.tools.registry.data import held_out, sample_of
from gateway.tools.samples import bundles_directory
from serving.bundles.bundle import Bundle, load_bundle
from serving.bundles.catalog import find_bundles
from serving.engines.experts import open_engine
from serving.engines.measure import evaluate
from serving.errors import ServingError
from serving.registry.dataset import parse_dataset
from serving.registry.errors import NotMeasurable, RegistryError
from serving.registry.evaluation import Measure
from serving.registry.measure import Clocks, area, classes_of, intervals, measure
from serving.train.clickstream.ecom import load_ecom
from serving.train.clickstream.loop import ClickSettings
from serving.train.clickstream.recipe import compare_clicks
from serving.train.errors import TrainingError
from serving.train.kiosk.foreign import foreign_images
from serving.train.payments.compare import compare_payments
from serving.train.payments.data import load_applications
from serving.train.payments.schema import CREDIT_DATA
from serving.train.regions.bench import SparsitySettings, compare_sparsity
from serving.train.regions.network import RegionSettings
from serving.train.regions.places import load_places
from serving.train.report import ENERGIES

QUICK_PLACES = 20_000
QUICK_UNITS, QUICK_SMALLER = 512, 256
UNITS_OF_EXPERT = 1_024

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """Where figures of a stopped run are kept, a JSON file each; without a directory everything is measured.

    A file counts only for what it was measured of: a program of the same version, the same settings and data.
    """

    directory: Path | None
    about: Mapping[str, str | int | bool]

    def __call__(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return what is kept under a name, or else measure it and keep it. What is measured must be plain JSON."""
        if self.directory is None:
            return measure()
        file = self.directory / f"{name}.json"
        try:
            there = json.loads(file.read_bytes())
            if there["about"] == self.about:
                return there["found"]
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            pass
        found = measure()
        self.directory.mkdir(parents=True, exist_ok=True)
        staged = file.with_suffix(".part")
        staged.write_text(json.dumps({"about": dict(self.about), "found": found}) + "\n")
        staged.replace(file)  # from here on a stopped run goes on behind this
        return found


def measured(part: str, options: SimpleNamespace, say: Say) -> dict[str, Any]:
    """Return what one part measures, or under `not_measured` why it cannot be."""
    try:
        return PARTS[part](options, say)
    except (TrainingError, ServingError, RegistryError) as problem:
        return {"not_measured": str(problem)}


def _sparsity(options: SimpleNamespace, say: Say) -> dict[str, Any]:
    places = load_places(options.places)
    units = options.units
    recipe = RegionSettings(units=units, experts=units // UNITS_OF_EXPERT)
    settings = SparsitySettings(recipe=recipe, smaller=(units // 2, 3 * units // 4), seeds=options.seeds)
    if options.quick:
        places = places.take(np.random.default_rng(0).permutation(len(places))[:QUICK_PLACES])
        recipe = replace(settings.recipe, units=QUICK_UNITS, epochs=1)
        settings = replace(settings, recipe=recipe, smaller=(QUICK_SMALLER,), rounds=2, rows_max=2_000)
    about: dict[str, str | int | bool] = {"recipe": str(replace(settings, seeds=0)), "rows": len(places)}
    keep = Kept(options.keep, {**about, "data": places.sha256, "program": version("stockade")})
    return compare_sparsity(places, settings, say, keep=keep)


def _clicks(options: SimpleNamespace, say: Say) -> dict[str, Any]:
    data = load_ecom(options.clicks)
    settings = replace(ClickSettings(), epochs=1) if options.quick else ClickSettings()
    keep = Kept(options.keep, {"recipe": str(settings), "data": data.sha256, "program": version("stockade")})
    found = []
    for seed in range(options.seeds):
        say(f"seed {seed} of {options.seeds}")
        found.append(keep(f"clicks-{seed}", partial(compare_clicks, data, replace(settings, seed=seed))))
    return {"data_sha256": data.sha256} | intervals(found)


def _credit(options: SimpleNamespace, say: Say) -> dict[str, Any]:
    data = load_applications(CREDIT_DATA, options.modeldata)
    compared = partial(
        compare_payments,
        CREDIT_DATA,
        data,
        options.seeds,
        folds=not options.quick,
        on_step=lambda done, total: say(f"{done} of {total}"),
    )
    about = {"quick": options.quick, "seeds": options.seeds, "data": data.digest, "program": version("stockade")}
    found: dict[str, Any] = Kept(options.keep, about)("credit", compared)
    return found


def _bundles(options: SimpleNamespace, say: Say) -> dict[str, Any]:
    root = options.bundles or bundles_directory()
    keys = options.trusted or sorted(root.glob("*.pub"))
    found = {}
    for directory in find_bundles(root):
        if directory.parent.name != "samples":
            say(f"{directory.parent.name} {directory.name}")
            bundle = load_bundle(directory, keys)
            found[f"{bundle.name}/{bundle.version}"] = _bundle(bundle)
    return found


def _bundle(bundle: Bundle) -> dict[str, Any]:
    """What a bundle measures on its test set, or on the sample of it that comes with the project."""
    try:
        known = held_out(bundle)
    except TrainingError:
        sample = sample_of(bundle)
        known = (sample.name, sample.read_bytes()) if sample is not None and sample.is_file() else None
    if known is None:
        raise NotMeasurable(f"{bundle.name} version {bundle.version}: its test rows are not here")
    data = parse_dataset(known[1], known[0], bundle, classes_of(bundle))
    found = measure(bundle, None, data, None, Clocks(time.perf_counter, time.process_time)).metrics
    report: dict[str, Any] = {"data": known[0], "rows": len(data.labels)}
    report |= {name: _told(found[name]) for name in ("accuracy", "auc", "calibration_error") if name in found}
    report["latency_p50_us"] = round(1000 * found["latency_p50_ms"].value, 1)
    if "evidence" in bundle.manifest["calibration_report"]:
        report |= _energies(bundle, np.asarray(data.inputs[bundle.inputs[0].name]))
    told = bundle.manifest["metrics"]
    report["told"] = {name: told[name] for name in ("robustness", "terms") if name in told}
    return report


def _told(found: Measure) -> dict[str, Any]:
    """A measure with its 95 % interval, where it has one."""
    return {"value": found.value} | ({"interval": [found.low, found.high]} if found.low is not None else {})


def _energies(bundle: Bundle, rows: NDArray[Any]) -> dict[str, Any]:
    """False alarms of its screen on these rows, and of images how well each energy tells real digits from them."""
    points = [point["fpr_max"] for point in bundle.manifest["calibration_report"]["evidence"]["operating_points"]]
    engine, name = open_engine(bundle), bundle.inputs[0].name
    own = evaluate(engine, rows, name=name)
    alarms = measure_evidence(bundle.calibration, own, points=points)
    report: dict[str, Any] = {"alarms": [{key: one[key] for key in ("fpr_max", "rate", "interval")} for one in alarms]}
    if [spec.shape for spec in bundle.inputs] == [(-1, 28, 28)]:
        digits = foreign_images(np.zeros((1, 28, 28), np.uint8), 0)["digits"]
        strange = evaluate(engine, digits, name=name)
        report["digits_auroc"] = {energy: _told(area(strange[energy], own[energy])) for energy in ENERGIES}
    engine.close()
    return report


PARTS: Mapping[str, Callable[[SimpleNamespace, Say], dict[str, Any]]] = {
    "sparsity": _sparsity,
    "clicks": _clicks,
    "credit": _credit,
    "bundles": _bundles,
}
