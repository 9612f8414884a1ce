"""The whole pipeline of a committed model, for whoever attacks it: one call, and a torch module is there.

pipeline = load_pipeline(Path("bundles/kiosk/2"), Path("bundles/stockade-release.pub"))
logits = pipeline(images)         # images float32 (n, 28, 28) or (n, 1, 28, 28) in [0, 1]
judged = pipeline.judged(images)  # outputs, scores, thresholds, flagged, answered, excess; all differentiable
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from defenses.lab.pipeline import STATISTICS, Pipeline, Rates
from gateway.tools.lab.models import BundleModel
from gateway.tools.lab.place import policy_under_test

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any


def load_pipeline(bundle: Path, key: Path, rates: Mapping[str, Rates] | None = None) -> Pipeline:
    """Verify a kiosk bundle and return it with its stateless screens.

    Args:
        bundle: its directory, such as bundles/kiosk/2.
        key: PEM of the public key that signed it.
        rates: the screens in force; None: those of the policy that `stockade init` writes. See `rates_of`.

    Raises:
        BundleRejected: it is not signed by that key, or is no kiosk.
        ScreenMissing, CalibrationInvalid, CalibrationTooSmall: it cannot be screened at these rates.
    """
    model = BundleModel(bundle, key)
    return Pipeline(
        model.module(), model.arrays(), rates_of(policy_under_test(None)[model.name]) if rates is None else rates
    )


def rates_of(policy: Mapping[str, Any]) -> dict[str, Rates]:
    """Return the rates of the enforcing stateless screens of a model's part of a policy."""
    return {
        name: Rates(screen["flag"], screen.get("refuse", 0.0))
        for name, screen in policy.get("screens", {}).items()
        if name in STATISTICS and screen.get("mode", "shadow") == "enforce"
    }
