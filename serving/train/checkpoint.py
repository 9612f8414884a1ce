"""A stopped run's state on disk: tensors and a history in safetensors (never a pickle), moved into place when whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from serving.train.errors import CheckpointMismatch

__all__ = ["optimizer_state", "optimizer_tensors", "read_checkpoint", "under", "write_checkpoint"]


def write_checkpoint(path: Path, identity: str, tensors: Mapping[str, Tensor], history: Any) -> None:
    """Write the state of the run that `identity` names; `history` is plain JSON."""
    whole = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    staged = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(whole, staged, metadata={"identity": identity, "history": json.dumps(history)})
    staged.replace(path)  # from here on a stopped run resumes after this epoch


def read_checkpoint(path: Path, identity: str) -> tuple[dict[str, Tensor], Any] | None:
    """Return (tensors, history), None where there is no file; CheckpointMismatch when it is of another run."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointMismatch(path, "not a checkpoint") from error
    if metadata.get("identity") != identity:
        raise CheckpointMismatch(path, "belongs to other settings, data or architecture")
    return tensors, json.loads(metadata["history"])


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's slots as named tensors."""
    slots = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{name}": value for index, slot in slots.items() for name, value in slot.items()}


def optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the state to load into the optimizer, from what `optimizer_tensors` gave."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in under("optimizer.", tensors).items():
        index, _, field = name.partition(".")
        slots.setdefault(int(index), {})[field] = value
    return {**optimizer.state_dict(), "state": slots}
