"""A training run: epochs of steps, averaged weights, a learning curve, early stopping; resumable to the bit.

All randomness comes from one generator whose state is in the checkpoint, so a run that was stopped and resumed ends
with the weights of one that was not. A checkpoint is safetensors (never a pickle), written beside and moved into place.
What is measured and returned is the exponential moving average of the weights that are trained.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from serving.train.errors import CheckpointMismatch

Net = TypeVar("Net", bound=nn.Module)
Epoch = TypeVar("Epoch")
OnStep = Callable[[int, int], None]
"""Is called after a step with how many are done, of how many."""


class Settings(Protocol):
    """What every training has: how many epochs, rows of a step, and how slowly the average follows the weights."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_rows(self) -> int: ...
    @property
    def average_decay(self) -> float: ...


@dataclass(slots=True)
class Run(Generic[Net, Epoch]):
    """Everything that changes during training.

    With `score` of an epoch the best average is kept in `best`, and training ends after `patience` epochs without one.
    """

    net: Net
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    epoch: Callable[..., Epoch]
    score: Callable[[Epoch], float] | None = None
    patience: int = 0
    average: Net = field(init=False)
    best: Net = field(init=False)
    history: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.average = copy.deepcopy(self.net)
        self.best = copy.deepcopy(self.net) if self.score else self.average

    @property
    def nets(self) -> Mapping[str, nn.Module]:
        """The networks by the names under which a checkpoint keeps them."""
        return {"net": self.net, "average": self.average} | ({"best": self.best} if self.score else {})

    @property
    def since_best(self) -> int:
        """Epochs since the best one."""
        if self.score is None or not self.history:
            return 0
        return len(self.history) - 1 - int(np.argmax([self.score(epoch) for epoch in self.history]))


def train_epochs(
    run: Run[Net, Epoch],
    settings: Settings,
    *,
    rows: int,
    identity: Mapping[str, Any],
    step: Callable[[Tensor], Sequence[float]],
    measure: Callable[[Net], Sequence[float]],
    rate: Callable[[int, int], float] | None = None,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> tuple[Net, list[Epoch]]:
    """Train and return the network to keep and the history; go on from `checkpoint` when it is there.

    Args:
        run: where training stands; it is changed.
        settings: how long.
        rows: how many there are to learn from.
        identity: what it is the run of, in JSON; a checkpoint of another run is refused.
        step: takes the rows of a batch, changes the weights, and returns figures whose means begin an epoch's record.
        measure: returns the figures of the averaged network on held-out rows, which end the record.
        rate: the learning rate of a step, of so many; None leaves it.
        checkpoint: where the run is kept after each epoch.
        on_step: is called after each step.

    Raises:
        CheckpointMismatch: the checkpoint is of another run.
    """
    about = json.dumps(identity, sort_keys=True)
    if checkpoint is not None:
        _restore(run, checkpoint, about)
    steps = max(1, rows // settings.batch_rows)
    total = settings.epochs * steps
    while len(run.history) < settings.epochs and (run.score is None or run.since_best < run.patience):
        order = torch.randperm(rows, generator=run.generator)
        figures = []
        for index in range(steps):
            done = len(run.history) * steps + index
            if rate is not None:
                for group in run.optimizer.param_groups:
                    group["lr"] = rate(done, total)
            figures.append(step(order[index * settings.batch_rows : (index + 1) * settings.batch_rows]))
            _average(run, done, settings.average_decay)
            if on_step is not None:
                on_step(done + 1, total)
        means = [float(mean) for mean in np.mean(figures, axis=0)]
        run.history.append(run.epoch(len(run.history) + 1, *means, *measure(run.average)))
        if run.score and run.since_best == 0:
            run.best.load_state_dict(run.average.state_dict())
        if checkpoint is not None:
            _save(run, checkpoint, about)
    run.best.eval()
    return run.best, run.history


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step down the gradient of a loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
    optimizer.step()


def arrays_of(net: nn.Module) -> dict[str, NDArray[Any]]:
    """Return the numbers of a network by name, C-contiguous, as they are: what a bundle keeps."""
    return {name: value.detach().contiguous().numpy() for name, value in net.state_dict().items()}


def doubles_of(net: nn.Module) -> dict[str, NDArray[np.float64]]:
    """Return the numbers of a network by name in float64: what a graph is computed from."""
    return {name: value.detach().double().contiguous().numpy() for name, value in net.state_dict().items()}


@contextmanager
def show_steps(console: Console) -> Iterator[Callable[[str], OnStep]]:
    """Yield what begins a progress bar of this name, and returns what its steps are reported to."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:

        def show(what: str) -> OnStep:
            task = progress.add_task(what, total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield show


def _average(run: Run[Any, Any], step: int, decay: float) -> None:
    """Move the averages towards the weights; a warm-up makes the first steps forgotten. Counters are copied."""
    now = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for before, after in zip(run.average.state_dict().values(), run.net.state_dict().values(), strict=True):
            if before.dtype.is_floating_point:
                before.lerp_(after, 1 - now)
            else:
                before.copy_(after)


def _save(run: Run[Any, Any], path: Path, identity: str) -> None:
    """Write the state between two epochs; `identity` says what it is the run of."""
    slots = run.optimizer.state_dict()["state"]
    tensors = {f"optimizer.{index}.{name}": value for index, slot in slots.items() for name, value in slot.items()}
    for prefix, net in run.nets.items():
        tensors |= {f"{prefix}.{name}": value for name, value in net.state_dict().items()}
    tensors["generator"] = run.generator.get_state()
    whole = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    history = json.dumps([asdict(epoch) for epoch in run.history])
    staged = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(whole, staged, metadata={"identity": identity, "history": history})
    staged.replace(path)  # from here on a stopped run resumes after this epoch


def _restore(run: Run[Any, Any], path: Path, identity: str) -> None:
    """Bring the run to where it was stopped, if there is a file; CheckpointMismatch when it is of another run."""
    if not path.exists():
        return
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointMismatch(path, "not a checkpoint") from error
    if metadata.get("identity") != identity:
        raise CheckpointMismatch(path, "belongs to other settings, data or architecture")
    for prefix, net in run.nets.items():
        net.load_state_dict(_under(f"{prefix}.", tensors))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = value
    run.optimizer.load_state_dict({**run.optimizer.state_dict(), "state": slots})
    run.generator.set_state(tensors["generator"])
    run.history.extend(run.epoch(**epoch) for epoch in json.loads(metadata["history"]))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
