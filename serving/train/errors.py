"""What can go wrong in a recipe, before there is a bundle.

```
TrainingError
├── DatasetMissing      the data is on none of the paths looked at; says what installs it
├── DatasetMalformed    a file is not the data set it should be
├── CheckpointMismatch  a checkpoint belongs to another configuration, seed or data set
├── FeedbackRefused     a bundle cannot go on from labels
├── PrototypesRefused   a bundle or its data cannot have prototypes
├── SigningKeyUnusable  the signing key is not a P-256 private key
├── WrapRefused         somebody else's model, or the sample for it, cannot become a bundle
└── GateFailed          the trained model is below its release gate; no bundle is signed
```
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class TrainingError(Exception):
    """Root of the recipes' errors."""


class DatasetMissing(TrainingError):
    """No complete copy of the data set was found."""

    def __init__(self, name: str, looked_in: Sequence[Path], package: str, kind: str = "Debian package") -> None:
        places = ", ".join(str(place) for place in looked_in)
        super().__init__(f"{name} not found in {places}; install the {kind} `{package}` or give a path")
        self.name = name
        self.looked_in = tuple(looked_in)
        self.package = package


class DatasetMalformed(TrainingError):
    """A data file breaks the rules of its format."""

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


class CheckpointMismatch(TrainingError):
    """Resuming would mix two runs."""

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}; delete it to start afresh")
        self.file = file
        self.problem = problem


class FeedbackRefused(TrainingError):
    """A bundle has no head that could be learned from labels."""


class PrototypesRefused(TrainingError):
    """A bundle, or the rows that were to stand for it, cannot have prototypes."""


class WrapRefused(TrainingError):
    """Somebody else's model, or the sample that was to calibrate it, cannot become a bundle."""


class SigningKeyUnusable(TrainingError):
    """The key cannot sign bundles."""

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


class GateFailed(TrainingError):
    """A measured value is on the wrong side of its gate."""

    def __init__(self, gate: str, value: float, bound: float) -> None:
        super().__init__(f"gate {gate}: {value:.4f}, bound {bound:.4f}")
        self.gate = gate
        self.value = value
        self.bound = bound
