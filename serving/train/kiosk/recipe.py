"""The kiosk's recipes: Fashion-MNIST to a signed bundle, in one function.

`clean` makes version 1, for accuracy and cost; `robust` makes version 2, which stands small changes of every pixel.
The bundle's screen is fitted by a callable that is handed in, because serving knows models and nothing of screens.
Every split has one use: `train` the weights and both densities, `fit` the learning curves and the screen's tails,
`calibrate` the conformal threshold, `test` the published figures and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from serving.bundles.bundle import Bundle
from serving.train import plots
from serving.train.card import write_card
from serving.train.density import fit_classes, fit_plane
from serving.train.kiosk.data import CLASS_NAMES, FashionMnist, Labelled, Splits, load_fashion_mnist, split
from serving.train.kiosk.foreign import foreign_images
from serving.train.kiosk.graph import Convolution, fold_batch_norm, write_graph
from serving.train.kiosk.loop import EpochReport, LoopSettings, middle_features, train
from serving.train.kiosk.network import MIDDLE, KioskNet
from serving.train.kiosk.report import (
    USUAL,
    Gates,
    Recipe,
    Trained,
    gates_of,
    lineage_of,
    metrics_of,
    signature_of,
    training_of,
)
from serving.train.kiosk.robust import ROBUST_STAGES, RobustEpoch, RobustSettings, train_robust
from serving.train.kiosk.robustness import Attacked, under_attack
from serving.train.pack import open_signing_key, write_trained
from serving.train.report import ScreenFitter, digest_of, measure_model
from serving.train.run import arrays_of, doubles_of, show_steps

PLANE_COMPONENTS = 48
CLEAN_OBJECTIVE = "supervised cross-entropy; AdamW, one cycle, averaged weights; shifts and mirror images"
ROBUST_OBJECTIVE = "TRADES within L-inf; SGD, one cycle, averaged weights; mirror images"


@dataclass(frozen=True, slots=True)
class KioskSettings:
    """Paths and sizes of a run; `rows_max` cuts each split for a smoke run.

    `loop` is the clean recipe's; with `robust` the robust recipe runs instead, and is attacked as `attacked` says.
    """

    bundle: Path
    signing_key: Path
    data: Path | None = None
    checkpoint: Path | None = None
    plots: Path | None = None
    loop: LoopSettings = field(default_factory=LoopSettings)
    robust: RobustSettings | None = None
    attacked: Attacked = field(default_factory=Attacked)
    gates: Gates = field(default_factory=Gates)
    smoke: bool = False
    rows_max: Mapping[str, int] | None = None


def robust_settings(settings: KioskSettings) -> KioskSettings:
    """The robust recipe with its own gates, on the seed of the clean one."""
    robust = RobustSettings(seed=settings.loop.seed)
    return replace(settings, robust=robust, gates=Gates(accuracy_min=0.85, robust_accuracy_min=0.75))


def smoke_settings(settings: KioskSettings) -> KioskSettings:
    """The same recipe in seconds: three short epochs on a tenth of the data, and a gate that only shows it learned."""
    rows = {"train": 4_096, "fit": 1_000, "calibrate": 3_000, "test": 1_000}
    robust = None if settings.robust is None else replace(settings.robust, epochs=3, inner_steps=2, held_out_rows=200)
    return replace(
        settings,
        loop=replace(settings.loop, epochs=3),
        robust=robust,
        attacked=replace(settings.attacked, pgd_rows=200, attack_rows=50),
        gates=Gates(accuracy_min=0.5),
        smoke=True,
        rows_max=rows,
    )


def train_kiosk(settings: KioskSettings, screen: ScreenFitter, console: Console) -> Bundle:
    """Train, measure, calibrate, gate, sign and write the bundle; return it as it was verified.

    Raises:
        TrainingError: the data, the key, the checkpoint or a gate; nothing has been written in place of a bundle.
    """
    key = open_signing_key(settings.signing_key)
    data = load_fashion_mnist(settings.data)
    parts, test = _cut(split(data.pool, settings.loop.seed), data.test, settings.rows_max)
    model = _fit(parts, settings, data, console)
    signature = signature_of(model)
    with console.status("measuring"):
        measurement = measure_model(
            signature,
            model.graph,
            screen,
            fit=parts.fit.images,
            calibrate=parts.calibrate.images,
            test=test.images,
            strange=foreign_images(test.images, settings.loop.seed),
            usual=USUAL,
        )
        metrics = metrics_of(model, test, measurement)
        if settings.robust is not None:
            metrics["robustness"] = under_attack(model.net, test, settings.attacked, settings.robust.seed)
    manifest = signature.manifest(
        data=lineage_of(data, parts, test),
        training=training_of(model, smoke=settings.smoke),
        metrics=metrics,
        evidence=measurement.evidence,
        gates=gates_of(settings.gates, metrics),
    )
    if settings.plots is not None:
        name = "kiosk" if model.recipe.version == "1" else f"kiosk-{model.recipe.name}"
        stem, error = settings.plots / name, metrics["calibration_error"]
        plots.draw_curves(model.history, metrics["accuracy"], settings.plots / f"{name}-curves.png")
        plots.draw_confusion(np.array(metrics["confusion"]), CLASS_NAMES, settings.plots / f"{name}-confusion.png")
        plots.draw_outputs(stem, "test images", test.labels, error, test=measurement.test, strange=measurement.strange)
    return write_trained(
        settings.bundle,
        manifest,
        graph=model.graph,
        weights=_weights(model),
        calibration=measurement.calibration,
        card=write_card(manifest),
        key=key,
        public=settings.signing_key.with_suffix(".pub"),
    )


def _cut(parts: Splits, test: Labelled, rows_max: Mapping[str, int] | None) -> tuple[Splits, Labelled]:
    if rows_max is None:
        return parts, test
    first = {name: np.arange(rows) for name, rows in rows_max.items()}
    cut = Splits(
        parts.train.take(first["train"]), parts.fit.take(first["fit"]), parts.calibrate.take(first["calibrate"])
    )
    return cut, test.take(first["test"])


def _fit(parts: Splits, settings: KioskSettings, data: FashionMnist, console: Console) -> Trained:
    digest = digest_of([data.digests, len(parts.train), len(parts.fit)])
    recipe, average, history = _learn(parts, settings, digest, console)
    return fit_graph(recipe, average, history, parts.train)


def fit_graph(
    recipe: Recipe, net: KioskNet, history: Sequence[EpochReport] | Sequence[RobustEpoch], rows: Labelled
) -> Trained:
    """Fit both densities to the training rows, and write the graph."""
    plane = fit_plane(rows.images, PLANE_COMPONENTS)
    densities = fit_classes(middle_features(net, rows).double().numpy(), rows.labels, len(CLASS_NAMES))
    graph = write_graph(
        folded(net),
        head_weight=net.head.weight.detach().double().numpy(),
        head_bias=net.head.bias.detach().double().numpy(),
        plane=plane,
        densities=densities,
        middle=MIDDLE,
    )
    return Trained(recipe, net, history, plane, densities, graph)


def _learn(
    parts: Splits, settings: KioskSettings, data_digest: str, console: Console
) -> tuple[Recipe, KioskNet, list[EpochReport] | list[RobustEpoch]]:
    with show_steps(console) as show:
        if settings.robust is None:
            torch.manual_seed(settings.loop.seed)
            clean = Recipe("clean", "1", CLEAN_OBJECTIVE, asdict(settings.loop))
            average, history = train(
                KioskNet(len(CLASS_NAMES)),
                parts.train,
                parts.fit,
                settings.loop,
                checkpoint=settings.checkpoint,
                data_digest=data_digest,
                on_step=show("training"),
            )
            return clean, average, history
        torch.manual_seed(settings.robust.seed)
        robust = Recipe("robust", "2", ROBUST_OBJECTIVE, asdict(settings.robust))
        best, curve = train_robust(
            KioskNet(len(CLASS_NAMES), ROBUST_STAGES),
            parts.train,
            parts.fit,
            settings.robust,
            checkpoint=settings.checkpoint,
            data_digest=data_digest,
            on_step=show("training"),
        )
        return robust, best, curve


def folded(net: KioskNet) -> list[Convolution]:
    """Return the stages as the graph has them: batch norm in the convolutions, float64."""
    state = doubles_of(net)
    return [
        fold_batch_norm(
            state[f"convolutions.{index}.weight"],
            gamma=state[f"norms.{index}.weight"],
            beta=state[f"norms.{index}.bias"],
            mean=state[f"norms.{index}.running_mean"],
            variance=state[f"norms.{index}.running_var"],
            epsilon=net.epsilon,
            stride=stage.stride,
        )
        for index, stage in enumerate(net.stages)
    ]


def _weights(model: Trained) -> dict[str, NDArray[Any]]:
    """Return the averaged network unfolded, and the densities: what another recipe would go on from."""
    return arrays_of(model.net) | {
        "plane.mean": model.plane.mean.astype(np.float32),
        "plane.components": model.plane.components.astype(np.float32),
        "classes.whitening": model.densities.whitening.astype(np.float32),
        "classes.means": model.densities.means.astype(np.float32),
    }
