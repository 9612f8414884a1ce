"""Train the clickstream model: cross-entropy of the next item beside latent prediction kept apart by SIGReg.

    loss = cross-entropy(logits, next) + joint x [(1 - lambda) |p - z_next|^2 + lambda (SIGReg(p) + SIGReg(z_next)) / 2]

No teacher and no stop-gradient: a joint-embedding loss alone is least where every embedding is the same, and SIGReg
(LeJEPA, arXiv 2511.08544) alone keeps latents from collapsing. The averaged network is measured on held-out rows after
each epoch, the best one is returned, and training stops when it has not improved for `patience` epochs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from serving.train.clickstream.ecom import NO_TARGET, Clicks, Sequences
from serving.train.clickstream.network import ClickNet
from serving.train.run import OnStep, Run, train_epochs, update

KNOTS, END = 17, 3.0  # of SIGReg's integral


@dataclass(frozen=True, slots=True)
class ClickSettings:
    """What decides the weights, beside data and architecture. `joint` 0 leaves the latent objective out."""

    epochs: int = 40
    patience: int = 4
    batch_rows: int = 64
    rate: float = 0.005
    weight_decay: float = 0.01
    average_decay: float = 0.99
    joint: float = 0.02
    sigreg_share: float = 0.02
    directions: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ClickEpoch:
    """One point of the learning curves; the held-out figures belong to the averaged weights, in nats and as a share."""

    epoch: int
    loss: float
    latent_error: float
    sigreg: float
    held_out_loss: float
    held_out_accuracy: float


def train_clicks(
    net: ClickNet,
    rows: Sequences,
    held_out: Clicks,
    settings: ClickSettings,
    *,
    checkpoint: Path | None = None,
    data_digest: str = "",
    on_step: OnStep | None = None,
) -> tuple[ClickNet, list[ClickEpoch]]:
    """Train and return the best averaged network and its history; resume from `checkpoint` when it is there.

    Raises:
        CheckpointMismatch: the checkpoint is of another run.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(settings.seed)
    run = Run(net, optimizer, generator, ClickEpoch, lambda epoch: -epoch.held_out_loss, settings.patience)
    identity = {"settings": asdict(settings), "shape": asdict(net.shape), "data": data_digest}
    ids, targets = torch.from_numpy(rows.ids), torch.from_numpy(rows.targets)
    return train_epochs(
        run,
        settings,
        rows=len(rows),
        identity=identity,
        step=lambda chosen: _step(run, ids[chosen], targets[chosen], settings),
        measure=lambda average: _measure(average, held_out),
        checkpoint=checkpoint,
        on_step=on_step,
    )


def predict_clicks(net: ClickNet, rows: Clicks, batch_rows: int = 1000) -> tuple[Tensor, Tensor, Tensor]:
    """Return (embedding, latent, logits) in float32 for every row, without gradients."""
    net.eval()
    with torch.no_grad():
        parts = [net(part) for part in torch.split(torch.from_numpy(rows.ids), batch_rows)]
    embedding, latent, logits = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    return embedding, latent, logits


def unit_directions(width: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` unit vectors, (width, count), uniform on the sphere."""
    directions: Tensor = torch.randn(width, count, generator=generator)
    lengths: Tensor = directions.norm(dim=0, keepdim=True)
    return directions / lengths


def sigreg(embeddings: Tensor, directions: Tensor) -> Tensor:
    """Return how far embeddings (rows, width) are from a standard normal along unit directions (width, count).

    A distribution is normal where all its projections are (Cramer and Wold), so each projection's characteristic
    function is held against the normal's (Epps and Pulley 1983), by 17 trapezoid knots, averaged over the directions:

        rows x integral from 0 to 3 of [(mean cos ts - exp(-t^2/2))^2 + (mean sin ts)^2] exp(-t^2/2) dt

    Linear in rows, directions and width. For a standard normal its expectation is 0.53 whatever the number of rows; for
    a collapsed batch it grows with them.
    """
    knots = torch.linspace(0.0, END, KNOTS)
    normal = torch.exp(-0.5 * knots.square())
    step = END / (KNOTS - 1)
    weights = torch.full((KNOTS,), step)
    weights[0] = weights[-1] = step / 2
    angles = (embeddings @ directions).unsqueeze(-1) * knots
    apart = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
    penalties: Tensor = len(embeddings) * (apart @ (weights * normal))
    return penalties.mean()


def _step(run: Run[ClickNet, ClickEpoch], ids: Tensor, targets: Tensor, settings: ClickSettings) -> list[float]:
    """Change the weights and return (loss, latent error, SIGReg)."""
    net = run.net.train()
    chosen = targets != NO_TARGET
    labels = targets[chosen]
    latent = net.predict(net.states(ids)[chosen])
    logits = net.logits(latent, ids[chosen])
    following = net.places()[labels]
    error = (latent - following).square().sum(1).mean()
    loss, penalty = functional.cross_entropy(logits, labels), torch.zeros(())
    if settings.joint:
        directions = unit_directions(latent.shape[1], settings.directions, run.generator)
        penalty = (sigreg(latent, directions) + sigreg(following, directions)) / 2
        share = settings.sigreg_share
        loss = loss + settings.joint * ((1 - share) * error + share * penalty)
    update(run.optimizer, loss)
    return torch.stack([loss, error, penalty]).detach().tolist()


def _measure(net: ClickNet, rows: Clicks) -> tuple[float, float]:
    logits = predict_clicks(net, rows)[2]
    labels = torch.from_numpy(rows.labels)
    return float(functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).float().mean())
