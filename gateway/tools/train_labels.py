"""Before a recipe learns from data that no digest speaks for: do its labels fit what a trusted model is sure of?

A model that learned from changed labels has come to expect them, so only one that did not can see them. Here it is the
payments bundle that comes with the project, verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gateway.tools.init.init import RELEASE_KEY
from gateway.tools.samples import bundles_directory
from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
from serving.registry.labels import SUSPECT_MIN, check_labels
from serving.registry.measure import predictions

if TYPE_CHECKING:
    from serving.train.payments.data import Applications


def doubts_of(data: Applications) -> str:
    """Return what to tell whoever trains on these applications of credit_data; empty where nothing is to be told."""
    root = bundles_directory()
    engine = InProcessEngine(load_bundle(root / "payments" / "1", [root / RELEASE_KEY]))
    found = check_labels(
        predictions(engine, {"features": data.features}, "probabilities"), data.labels.astype(np.int64)
    )
    if found.low <= SUSPECT_MIN:
        return ""
    return (
        f"about {found.excess:.1%} ({found.low:.1%} to {found.high:.1%}) of the labels contradict payments/1 beyond "
        "what its own doubts explain: either labels were changed, or these are other applicants than it knows; look "
        "before you trust what learned from them"
    )
