"""The parts of `stockade bench models`: each measures one thing and returns plain JSON. Heavy to import: it trains."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.screens.evidence import measure_evidence
from gateway.tools.bench.kept import Kept
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
from serving.train.report import ENERGIES

Say = Callable[[str], None]


def measured(part: str, options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Return what one part measures, or under `not_measured` why it cannot be."""
    try:
        return PARTS[part](options, say)
    except (TrainingError, ServingError, RegistryError) as problem:
        return {"not_measured": str(problem)}


def _clicks(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    data = load_ecom(options.clicks)
    settings = replace(ClickSettings(), epochs=1) if options.quick else ClickSettings()
    keep = Kept(options.keep, {"recipe": str(settings), "data": data.sha256, "program": version("stockade")})
    found = []
    for seed in range(options.seeds):
        say(f"seed {seed} of {options.seeds}")
        found.append(keep(f"clicks-{seed}", partial(compare_clicks, data, replace(settings, seed=seed))))
    return {"data_sha256": data.sha256} | intervals(found)


def _credit(options: argparse.Namespace, say: Say) -> dict[str, Any]:
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


def _bundles(options: argparse.Namespace, say: Say) -> dict[str, Any]:
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


PARTS: Mapping[str, Callable[[argparse.Namespace, Say], dict[str, Any]]] = {
    "clicks": _clicks,
    "credit": _credit,
    "bundles": _bundles,
}
