"""A stopped run's state on disk: tensors and a history in safetensors (never a pickle), moved into place when whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from serving.train.errors import CheckpointMismatch


class Run(Protocol):
    """Everything that changes during training. `history` holds a flat dataclass an epoch."""

    @property
    def nets(self) -> Mapping[str, nn.Module]:
        """The networks by the names under which they are kept."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    @property
    def generator(self) -> torch.Generator: ...

    @property
    def history(self) -> list[Any]: ...


def save_run(run: Run, path: Path, identity: str) -> None:
    """Write a run between two epochs; `identity` is what it is the run of."""
    tensors = _optimizer_tensors(run.optimizer)
    for name, net in run.nets.items():
        tensors |= {f"{name}.{key}": value for key, value in net.state_dict().items()}
    tensors["generator"] = run.generator.get_state()
    _write(path, identity, tensors, [asdict(report) for report in run.history])


def restore_run(run: Run, path: Path, identity: str, report: Callable[..., object]) -> None:
    """Bring a run to where it was stopped, if there is a file; `report` makes an epoch of what its history says.

    Raises:
        CheckpointMismatch: the file is of another run.
    """
    if (kept := _read(path, identity)) is None:
        return
    tensors, history = kept
    for name, net in run.nets.items():
        net.load_state_dict(_under(f"{name}.", tensors))
    run.optimizer.load_state_dict(_optimizer_state(run.optimizer, tensors))
    run.generator.set_state(tensors["generator"])
    run.history.extend(report(**epoch) for epoch in history)


def _write(path: Path, identity: str, tensors: Mapping[str, Tensor], history: Any) -> None:
    """Write the state of the run that `identity` names; `history` is plain JSON."""
    whole = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    staged = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(whole, staged, metadata={"identity": identity, "history": json.dumps(history)})
    staged.replace(path)  # from here on a stopped run resumes after this epoch


def _read(path: Path, identity: str) -> tuple[dict[str, Tensor], Any] | None:
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


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's slots as named tensors."""
    slots = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{name}": value for index, slot in slots.items() for name, value in slot.items()}


def _optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the state to load into the optimizer, from what `_optimizer_tensors` gave."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, _, field = name.partition(".")
        slots.setdefault(int(index), {})[field] = value
    return {**optimizer.state_dict(), "state": slots}
