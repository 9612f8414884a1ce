"""S6 trigger: does the model's answer fit what the row shows, and does its latent fit the answer?

A backdoored model is right until a row carries a mark; then it answers the attacker's class, whatever else the row
shows. The mark is small or faint: a reference that never learned it still sees the row as what it is. So the screen
holds two densities (defenses/screens/trigger_density.py), fitted in closed form to a small clean set of the
defender's own, which the model's training never touched, and asks about the class that the *model* answers:

    pixels  log p(x | other) - log p(x | answer): how much likelier the input is under the best other class
    latent  -log p(latent | answer): how unlike the class's clean rows the latent is

Each becomes a surprise (the negative logarithm of its tail probability among clean rows, as in S1), the score is their
sum, and p-values come from clean rows that took no part in either fit. The screen knows neither mark nor target, needs
no further pass of the model, and reads what the served graph gives.

What it is kin to: a second opinion by an independently trained model (the idea behind prediction-consistency defences),
and class-conditional latent statistics (Mahalanobis, Beatrix: arXiv 2209.11715; TED: arXiv 2312.02673). What was tried
and is not used, STRIP among it, stands with its numbers in docs/explanation/defenses.md.

What it does not do: a marked row whose own class the reference confuses with the target (a shirt as a T-shirt) is close
to the model's honest mistakes and is mostly missed; an attacker who may choose sources chooses those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from defenses.budget.calibration import Calibrated, ConformalCalibration, digest_arrays
from defenses.budget.screen import Evidence
from defenses.errors import CalibrationInvalid, EvidenceInvalid
from defenses.screens.evidence import Tail, Tails
from defenses.screens.trigger_density import StudentClasses

NAME: Final = "trigger"
TECHNIQUE: Final = "AML.T0043.004"  # MITRE ATLAS: Insert Backdoor Trigger
OUTPUTS: Final = ("probabilities", "latent")  # of the model, FP (rows, classes) and (rows, D)
COMPONENTS: Final = ("pixels", "latent")
SCALE: Final = "beyond"  # what the arrays call a tail's scale
INPUT_NAME_BYTES_MAX: Final = 256

_ALGORITHM = "stockade.trigger/1"
_MOST = 1e6  # the score of a row that is not finite; no other reaches it

Reals = NDArray[np.float64]
Rows = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What clean rows look like, at the input and in the latent; `input_name` is the model's one input of floats."""

    input_name: str
    pixels: StudentClasses = field(repr=False)
    latent: StudentClasses = field(repr=False)

    def components(self, evidence: Evidence) -> tuple[Reals, NDArray[np.bool_]]:
        """Return float64 (components, rows), and bool (rows,): which rows are finite throughout."""
        pixels, probabilities, latent = self._checked(evidence)
        usual = np.isfinite(pixels).all(axis=1) & np.isfinite(probabilities).all(axis=1)
        usual &= np.isfinite(latent).all(axis=1)
        rows, answers = np.arange(len(pixels)), probabilities.argmax(axis=1)
        by_pixels = self.pixels.log_densities(pixels)
        answered = by_pixels[rows, answers]
        by_pixels[rows, answers] = -np.inf
        others = np.maximum.reduce(by_pixels, axis=1)
        return np.array([others - answered, -self.latent.log_densities_of(latent, answers)]), usual

    def _checked(self, evidence: Evidence) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the three arrays, each (rows, its width); EvidenceInvalid names the one that is not as fitted."""
        widths = {"probabilities": self.pixels.classes, "latent": self.latent.features}
        found = {self.input_name: _array(evidence.inputs, self.input_name)}
        found |= {name: _array(evidence.outputs, name) for name in OUTPUTS}
        rows = len(found["probabilities"])
        for name, width in widths.items():
            if found[name].shape != (rows, width):
                raise EvidenceInvalid(name, f"shape {found[name].shape}; (rows, {width}) wanted")
        shown = found[self.input_name]
        if shown.ndim < 2 or len(shown) != rows or shown[:1].size != min(rows, 1) * self.pixels.features:
            raise EvidenceInvalid(self.input_name, f"shape {shown.shape}; {rows} rows of {self.pixels.features} wanted")
        return shown.reshape(rows, self.pixels.features), found["probabilities"], found["latent"]


@dataclass(frozen=True, slots=True, eq=False)
class TriggerScreen:
    """Implements Screen. Build it with `from_calibration`; `tails` stand in the order of COMPONENTS."""

    reference: Reference
    tails: Tails = field(repr=False)
    digest: str
    name: str = NAME
    technique: str = TECHNIQUE

    @classmethod
    def from_calibration(cls, arrays: Rows) -> Self:
        """Read the "trigger.*" arrays of `fit_trigger`, ignoring others; CalibrationInvalid if malformed."""
        own = {name: array for name, array in arrays.items() if name.startswith(f"{NAME}.")}
        reference = Reference(
            _read_name(own),
            StudentClasses.from_arrays(own, f"{NAME}.pixels"),
            StudentClasses.from_arrays(own, f"{NAME}.latent"),
        )
        if reference.pixels.classes != reference.latent.classes:
            raise CalibrationInvalid(f"{NAME}.latent", "of another number of classes than the pixels'")
        tails = Tails(tuple(Tail.from_arrays(own, f"{NAME}.{component}", scale=SCALE) for component in COMPONENTS))
        return cls(reference, tails, digest_arrays(_ALGORITHM, own))

    def score(self, evidence: Evidence) -> Reals:
        """Score by the input, `probabilities` and `latent`; EvidenceInvalid when one is absent or misshapen."""
        components, usual = self.reference.components(evidence)
        pixels, latent = self.tails.surprises(components)
        scores: Reals = pixels + latent
        scores[~usual] = _MOST
        return scores


def load_trigger(arrays: Rows) -> Calibrated:
    """Return the screen with its calibration, from the arrays of a bundle."""
    return Calibrated(TriggerScreen.from_calibration(arrays), ConformalCalibration.from_arrays(arrays, NAME))


def _array(arrays: Rows, name: str) -> NDArray[Any]:
    array = arrays.get(name)
    if array is None:
        raise EvidenceInvalid(name, "absent")
    if array.dtype.kind != "f":
        raise EvidenceInvalid(name, f"{array.dtype}: floats wanted")
    return array


def _read_name(arrays: Rows) -> str:
    name = f"{NAME}.input"
    found = arrays.get(name)
    if found is None or found.dtype != np.uint8 or found.ndim != 1 or not 1 <= found.size <= INPUT_NAME_BYTES_MAX:
        raise CalibrationInvalid(name, "absent, or no name in UTF-8")
    try:
        return found.tobytes().decode()
    except UnicodeDecodeError:
        raise CalibrationInvalid(name, "absent, or no name in UTF-8") from None
