"""Screens of a candidate that read its answers, fitted again on the rows that the recipe kept back.

Another head answers otherwise: the margins that the budget (S4) prices and the class that a row is held against (S6)
are not the old ones. What reads inputs or latents alone (S2, S3, S7) stays as it was. A screen that cannot be fitted is
taken out: a policy that asks for it is then refused, and nobody is promised what was measured of another model.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gateway.tools.registry.calibrate import as_tensors, calibrated, heads, kept_back
from serving.bundles.bundle import assemble
from serving.bundles.signature import TrustedKey
from serving.train.pack import public_pem, seal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from rich.console import Console

    from serving.train.kiosk.data import Splits

READ_ANSWERS = ("budget", "trigger")

Parts = tuple[dict[str, bytes], dict[str, Any]]


def fitted_again(
    made: Parts, splits: Splits, key: ec.EllipticCurvePrivateKey, options: SimpleNamespace, console: Console
) -> Parts:
    """Return the files and the manifest of a candidate, neither sealed nor listed, with those screens fitted to it."""
    files, manifest = made
    bundle = assemble(seal(files, manifest, key), (TrustedKey.from_pem(public_pem(key), "signing key"),))
    names = [name for name in READ_ANSWERS if name in heads(bundle.calibration)]
    if not names:
        return made
    found = calibrated(bundle, as_tensors(*kept_back(splits)), names, options, console)
    for name in [each for each in found.arrays if each.partition(".")[0] in found.skipped]:
        del found.arrays[name]
    reports = {name: report for name, report in manifest["calibration_report"].items() if name not in found.skipped}
    return (
        {**files, manifest["calibration"]: found.packed()},
        {**manifest, "calibration_report": {**reports, **found.reports}},
    )
