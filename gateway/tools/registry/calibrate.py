"""`stockade defenses calibrate`: writes a version of a bundle with what its screens need to know of benign traffic.

The rows have to be ones that the model did not learn from and that nobody else could write to. They are split by the
seed into four parts that share no row; what a part is for stands at each fitter. Everything that is fitted becomes
arrays of the bundle, under its signature; what was promised and what was measured goes into its manifest. The graph and
the weights stay as they are, to the bit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from rich.console import Console

from defenses.accounts.benign_traffic import BenignTraffic, WatchKind
from defenses.accounts.watch import Watch
from defenses.accounts.watch_fit import fit_watch
from defenses.budget.screen import Evidence
from defenses.errors import CalibrationInvalid, DefenseError
from defenses.extraction.allowance import fit_budget, measure_budget
from defenses.extraction.budget import Prices
from defenses.labels.feedback import Consistency, fit_consistency
from defenses.screens.evidence import load_evidence
from defenses.screens.trigger import load_trigger
from defenses.screens.trigger_fit import CleanRows, fit_trigger
from gateway.tools.audit.verify import bar
from gateway.tools.registry.bundles import LABELS, require_new, sample_of, told, trusted_keys, write
from gateway.tools.registry.data import data_name
from gateway.tools.registry.registry import RegistryRefused, saying
from serving.bundles.bundle import assemble, read_bundle, read_keys
from serving.bundles.manifest import DATATYPES
from serving.engines.inprocess import InProcessEngine
from serving.train.kiosk.data import load_fashion_mnist, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from serving.bundles.bundle import Bundle
    from serving.train.kiosk.data import Splits

    Fitted = tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]
    Advance = Callable[[int, int], None]

SHARES = (0.3, 0.2, 0.3, 0.2)  # of the rows: to fit, for tails, to calibrate, to measure
BATCH_ROWS = 256
QUERIES_MEASURED = 1000
STREAMS_MEASURED = 1000
IMAGE_DIMS = 3
ANY_KEY = bytes(16)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows of one of the four parts: the model's inputs and outputs by name, and true classes where they are known."""

    inputs: Mapping[str, np.ndarray[Any, Any]]
    outputs: Mapping[str, np.ndarray[Any, Any]]
    labels: np.ndarray[Any, np.dtype[np.int64]] | None

    @property
    def input_name(self) -> str:
        """The only input's name. Raises CalibrationInvalid where there are several."""
        if len(self.inputs) != 1:
            raise CalibrationInvalid("inputs", f"{len(self.inputs)} of them; a model of one input is wanted")
        return next(iter(self.inputs))

    def clean(self) -> CleanRows:
        """Return the rows for a fitter that needs their classes."""
        if self.labels is None:
            raise CalibrationInvalid(LABELS, "absent, and this is fitted class by class")
        return CleanRows(self.inputs[self.input_name], self.outputs, self.labels)

    def output(self, bundle: Bundle, role: str) -> np.ndarray[Any, Any]:
        """Return the output that plays a role in the bundle."""
        names = bundle.manifest["roles"].get(role, ())
        if not names:
            raise CalibrationInvalid(role, "the bundle has no output of that role")
        return self.outputs[names[0]]


def fit_accounts(parts: list[Part], bundle: Bundle, options: SimpleNamespace, advance: Advance) -> Fitted:
    """S2 and S3: streams of the first two parts, measured on streams of the others."""
    name = parts[0].input_name
    fit, measure = (
        np.concatenate([part.inputs[name] for part in pair]).astype(np.float32) for pair in (parts[:2], parts[2:])
    )
    spec = next(spec for spec in bundle.inputs if spec.name == name)
    if len(spec.shape) != IMAGE_DIMS or spec.low is None or spec.high is None:
        raise CalibrationInvalid(name, "a watch is offered for images in a declared range")
    kind = WatchKind.of_images(name, fit)
    traffic = BenignTraffic(
        duplicates=options.duplicates,
        burst_mean=options.burst,
        returns=options.returns,
        in_flight=options.in_flight,
    )
    return fit_watch(fit, measure, kind, traffic=traffic, seed=options.seed, progress=advance)


def fit_prices(parts: list[Part], bundle: Bundle, options: SimpleNamespace, advance: Advance) -> Fitted:
    """S4: prices and allowances on the first three parts, measured on the last."""
    judged = load_evidence(bundle.calibration)

    def priced(part: Part) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, np.dtype[np.float64]]]:
        prediction = part.output(bundle, "prediction")
        return prediction, judged.judge(Evidence(part.inputs, part.outputs), rows=len(prediction)).p_values

    known = [priced(part) for part in parts[:3]]
    prediction, p_values = (np.concatenate([each[at] for each in known]) for at in (0, 1))
    arrays, report = fit_budget(prediction, p_values, seed=options.seed, progress=advance)
    report["measured"] = measure_budget(
        arrays, *priced(parts[3]), queries=QUERIES_MEASURED, streams=STREAMS_MEASURED, seed=options.seed
    )
    return arrays, report


def fit_triggers(parts: list[Part], _: Bundle, __: SimpleNamespace, ___: Advance) -> Fitted:
    """S6: densities on the first part, tails on the second, p-values on the third, measured on the last."""
    fit, tails, calibrate, measure = (part.clean() for part in parts)
    return fit_trigger(fit, tails, calibrate, measure, input_name=parts[0].input_name)


def fit_labels(parts: list[Part], bundle: Bundle, _: SimpleNamespace, __: Advance) -> Fitted:
    """S7: trusted rows are the first part; what a right label looks like among them is taken from the third."""
    trusted, calibrate = ((part.output(bundle, "latent"), part.clean().labels) for part in (parts[0], parts[2]))
    arrays = fit_consistency(trusted, calibrate)
    return arrays, {"screen": "feedback", "rows": {"trusted": len(trusted[1]), "calibrate": len(calibrate[1])}}


FITTERS: Mapping[str, Callable[[list[Part], Bundle, SimpleNamespace, Advance], Fitted]] = {
    "accounts": fit_accounts,
    "budget": fit_prices,
    "trigger": fit_triggers,
    "feedback": fit_labels,
}


LOADERS: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "accounts": lambda arrays: Watch.from_calibration(arrays, key=ANY_KEY),
    "budget": Prices.from_calibration,
    "trigger": load_trigger,
    "feedback": Consistency.load,
}


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """All arrays of a bundle with what was fitted, the reports of that by name, and why the others were not."""

    arrays: dict[str, np.ndarray[Any, Any]]
    reports: dict[str, Any]
    skipped: dict[str, str]

    def packed(self) -> bytes:
        """Return the arrays as the bundle's file. Raises DefenseError where a gateway could not use what was fitted."""
        packed = safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in self.arrays.items()})
        require_usable(safetensors.numpy.load(packed), self.reports)
        return packed


@saying
def run_calibrate(options: SimpleNamespace) -> int:
    """Write the calibrated version, and say what was fitted and what could not be."""
    files = read_bundle(options.directory)
    bundle = assemble(files, read_keys(trusted_keys(options)))
    target = options.out / bundle.name / str(options.version)
    require_new(target)
    tensors, where = rows_for(bundle, options)
    console = Console(stderr=True, quiet=options.json)
    found = calibrated(bundle, tensors, options.only or FITTERS, options, console)
    if not found.reports:
        raise RegistryRefused("nothing could be fitted, so nothing was written")
    manifest = {
        **bundle.manifest,
        "version": str(options.version),
        "calibration_report": {**bundle.manifest.get("calibration_report", {}), **found.reports},
        "calibrated": {"from": {"version": bundle.version, "digest": bundle.digest}, "seed": options.seed, **where},
    }
    changed = {name: data for name, data in files.items() if name not in {"manifest.json", "model.sig"}}
    changed[bundle.manifest["calibration"]] = found.packed()
    written = write(target, changed, manifest, options.signing_key)
    told([(target, written)], options)
    return 0


def calibrated(
    bundle: Bundle,
    tensors: Mapping[str, np.ndarray[Any, Any]],
    names: Iterable[str],
    options: SimpleNamespace,
    console: Console,
) -> Calibrated:
    """Fit these of FITTERS on benign rows, as far as it can be done, and say so on the console."""
    with bar(console, "running the model") as advance:
        parts = parts_of(bundle, tensors, options.seed, advance)
    found = Calibrated(dict(bundle.calibration), {}, {})
    for name in names:
        try:
            with bar(console, f"fitting {name}") as advance:
                arrays, report = FITTERS[name](parts, bundle, options, advance)
        except DefenseError as problem:
            found.skipped[name] = str(problem)
            console.print(f"not fitted  {name}: {problem}", soft_wrap=True)
            continue
        for old in [each for each in found.arrays if each.partition(".")[0] in heads(arrays)]:
            del found.arrays[old]
        found.arrays.update(arrays)
        found.reports[name] = report
        console.print(f"fitted      {name}: {sum(array.nbytes for array in arrays.values()):,} bytes")
    return found


def require_usable(arrays: Mapping[str, np.ndarray[Any, Any]], fitted: Iterable[str]) -> None:
    """Return if a gateway can use what was fitted, as it will find it. Raises DefenseError."""
    for name in fitted:
        if name in LOADERS:
            LOADERS[name](arrays)


def heads(arrays: Mapping[str, object]) -> set[str]:
    """Return the screens that these arrays are of: what stands before the first dot of their names."""
    return {name.partition(".")[0] for name in arrays}


def rows_for(bundle: Bundle, options: SimpleNamespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rows by input, with `labels` where there are any, and what the manifest says of them."""
    if options.data is not None:
        tensors, digest = sample_of(options.data)
        rows = len(next(iter(tensors.values())))
        return tensors, {"data": {"name": options.data.name, "sha256": digest, "rows": rows}}
    if data_name(bundle) != "Fashion-MNIST":
        raise RegistryRefused(f"no rows are known that {bundle.name} did not learn from; name a file with --data")
    kept = split(load_fashion_mnist().pool, int(bundle.manifest["training"]["loop"]["seed"]))
    images, labels = kept_back(kept)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    about = {"name": "Fashion-MNIST: what the recipe kept back", "sha256": digest, "rows": len(labels)}
    return as_tensors(images, labels), {"data": about}


def kept_back(splits: Splits) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, Any]]:
    """Return the images and labels that a kiosk's recipe trains nothing on."""
    images = np.concatenate([splits.fit.images, splits.calibrate.images])
    return images, np.concatenate([splits.fit.labels, splits.calibrate.labels])


def as_tensors(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return a kiosk's images (rows, 28, 28) of bytes as what the model takes, with their labels."""
    return {"image": images.astype(np.float32) / 255, LABELS: labels}


def parts_of(bundle: Bundle, tensors: Mapping[str, np.ndarray[Any, Any]], seed: int, advance: Advance) -> list[Part]:
    """Return four parts that share no row, with what the model says of each."""
    labels = tensors.get(LABELS)
    inputs = {name: array for name, array in tensors.items() if name != LABELS}
    if inputs.keys() != {spec.name for spec in bundle.inputs}:
        raise RegistryRefused(f"the data has {sorted(inputs)}, and the model takes {[s.name for s in bundle.inputs]}")
    inputs = {spec.name: inputs[spec.name].astype(DATATYPES[spec.datatype], copy=False) for spec in bundle.inputs}
    rows = len(next(iter(inputs.values())))
    order = np.random.default_rng([seed, 0x4341]).permutation(rows)
    ends = (np.cumsum(SHARES)[:-1] * rows).astype(int)
    engine, parts = InProcessEngine(bundle), []
    try:
        for end, chosen in zip([*ends.tolist(), rows], np.split(order, ends), strict=True):
            taken = {name: array[chosen] for name, array in inputs.items()}
            outputs = run(engine, taken)
            parts.append(Part(taken, outputs, None if labels is None else labels[chosen].astype(np.int64)))
            advance(end, rows)
    finally:
        engine.close()
    return parts


def run(engine: InProcessEngine, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the model's outputs on these rows, in batches."""
    rows = len(next(iter(inputs.values())))
    found = [
        engine.infer({name: array[first : first + BATCH_ROWS] for name, array in inputs.items()})
        for first in range(0, rows, BATCH_ROWS)
    ]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}
