"""The model card of a bundle, generated from its manifest (Mitchell et al. 2019, arXiv 1810.03993)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def write_card(manifest: Mapping[str, Any]) -> str:
    """Return the card in Markdown. Every figure in it stands in the manifest too."""
    metrics, training, data = manifest["metrics"], manifest["training"], manifest["data"]
    return "\n".join(
        [
            f"# {manifest['name']} {manifest['version']}",
            "",
            "Recognises one of ten kinds of product on a 28 x 28 grey image, and says how unlike its training it is.",
            *(
                ["", "**Made by a smoke run: it tests the recipe and is of no other use.**"]
                if training["smoke"]
                else []
            ),
            "",
            "## Use",
            "",
            "Input `image`: FP32 (rows, 28, 28), `float32(pixel) / 255`, white product on black.",
            "Outputs for each row: `probabilities`, `logits`, `latent`, and three energies that rise with surprise:",
            "`energy` (-logsumexp of the logits), `mahalanobis` (middle features, to the nearest class), `residual`",
            "(what the leading principal components of the training images leave over).",
            "",
            "Not for: photographs, colour, products outside the ten classes (see what is noticed below), or decisions",
            "about people. The energies find foreign images; they do not stop an adaptive attacker by themselves.",
            "",
            "## Data",
            "",
            f"{data['name']}, {data['licence']}. Train {data['rows']['train']:,}, screen fit {data['rows']['fit']:,},",
            f"conformal calibration {data['rows']['calibrate']:,}, test {data['rows']['test']:,} images, disjoint.",
            "The test images took no part in any choice that training makes.",
            "",
            "## Measured on the test images",
            "",
            "| | |",
            "|---|---|",
            f"| accuracy | {100 * metrics['accuracy']:.2f} % |",
            f"| expected calibration error | {100 * metrics['calibration_error']:.2f} % |",
            f"| parameters | {training['parameters']:,} |",
            f"| CPU a row, batches of 32, one thread | {metrics['cost_us']['rows_32']['median']} us |",
            f"| CPU a row, alone | {metrics['cost_us']['rows_1']['median']} us |",
            f"| largest difference, alone or in a batch | {max(metrics['rows_apart'].values()):.1e} |",
            "",
            *_robust(metrics.get("robustness")),
            *_classes(manifest),
            *_foreign(manifest),
            "## Training",
            "",
            f"{training['loop']['epochs']} epochs, seed {training['loop']['seed']}, {training['objective']}.",
            f"`stockade train kiosk --recipe {training['recipe']}` rebuilds this bundle.",
            "",
        ]
    )


def _robust(robustness: Mapping[str, Any] | None) -> list[str]:
    if robustness is None:
        return []
    rows = {name: found for name, found in robustness.items() if isinstance(found, Mapping)}
    return [
        f"Right whatever an attacker who has the weights does within {robustness['norm']} {robustness['radius']}:",
        "",
        "| attack | right (95 % interval) | test images |",
        "|---|---|---|",
        *(f"| {name.replace('_', ' ')} | {_share(found)} | {found['rows']:,} |" for name, found in rows.items()),
        "",
    ]


def _share(found: Mapping[str, Any]) -> str:
    low, high = (100 * bound for bound in found["interval"])
    return f"{100 * found['right']:.2f} % ({low:.2f} - {high:.2f})"


def _classes(manifest: Mapping[str, Any]) -> list[str]:
    rows = [f"| {name} | {100 * recall:.1f} % |" for name, recall in manifest["metrics"]["recall"].items()]
    return ["| class | recall |", "|---|---|", *rows, ""]


def noticed(foreign: Mapping[str, Any], *, fpr_max: float) -> list[str]:
    """Return the rows of a table: of each kind, what is flagged where at most `fpr_max` of what is known is."""
    rows = []
    for kind, found in foreign.items():
        flagged = next(point for point in found["flagged"] if point["fpr_max"] == fpr_max)
        low, high = (100 * bound for bound in flagged["interval"])
        areas = " | ".join(f"{found['auroc'][energy]:.3f}" for energy in ("energy", "mahalanobis", "residual"))
        rate = f"{100 * flagged['rate']:.2f} % ({low:.2f} - {high:.2f})"
        rows.append(f"| {kind} | {found['rows']:,} | {rate} | {areas} |")
    return rows


def _foreign(manifest: Mapping[str, Any]) -> list[str]:
    return [
        "## What is noticed",
        "",
        "Share flagged by the evidence screen where at most 1 % of products are (95 % intervals), and the AUROC of",
        "each energy against the test images. `products` are the test images themselves: false alarms.",
        "",
        "| images | rows | flagged | energy | mahalanobis | residual |",
        "|---|---|---|---|---|---|",
        *noticed(manifest["metrics"]["foreign"], fpr_max=0.01),
        "",
        f"Digits: {manifest['data']['foreign']['digits']}.",
        "",
    ]
