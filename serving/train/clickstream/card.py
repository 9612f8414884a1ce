"""The model card of the clickstream's bundle, generated from its manifest (Mitchell et al. 2019, arXiv 1810.03993)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.train.card import noticed


def write_click_card(manifest: Mapping[str, Any]) -> str:
    """Return the card in Markdown. Every figure in it stands in the manifest too."""
    training, data = manifest["training"], manifest["data"]
    smoke = ["", "**Made by a smoke run: it tests the recipe and is of no other use.**"] if training["smoke"] else []
    ids = ", ".join(f"{number} {name}" for name, number in data["ids"].items())
    rows, sessions = data["rows"], data["sessions"]
    return "\n".join(
        [
            f"# {manifest['name']} {manifest['version']}",
            "",
            "Says what a visitor of a shop clicks next, gives an embedding of the visitor, and says how unlike its",
            "training a sequence of clicks is.",
            *smoke,
            "",
            "## Use",
            "",
            f"Input `events`: INT64 (rows, {manifest['inputs'][0]['shape'][1]}), the last ids of a visitor's stream,",
            f"the newest last, padded on the left with {data['ids']['padding']}; every session begins with the mark",
            f"{data['ids']['session']}. Ids: {ids}.",
            "",
            "Outputs for each row: `probabilities` of the next event; `embedding`, the state after the last event, for",
            "segments and audiences (reserve it to the roles that may have it: `reserved` in the policy); `latent`,",
            "where the next event is expected; and three energies that rise with surprise: `energy` (-logsumexp of the",
            "logits), `mahalanobis` (of the embedding, to the training rows), `residual` (mean surprise over the",
            "window's own events).",
            "",
            "Not for: events outside the list, other shops without training again, decisions about single people. The",
            "data are synthetic.",
            "",
            "## Data",
            "",
            f"{data['name']}, {data['licence']}, {data['source']}.",
            f"Events (sessions): {', '.join(f'{name} {rows[name]:,} ({sessions[name]:,})' for name in rows)}.",
            f"{data['split']['test'].capitalize()} are the test; they took no part in any choice that training makes.",
            "Earlier events of the same visitor may stand in the window of a later one.",
            "",
            *_measured(manifest),
            *_foreign(manifest),
            "## Training",
            "",
            f"{len(training['history'])} epochs, seed {training['loop']['seed']}; {training['objective']}.",
            "`stockade train clickstream` rebuilds this bundle.",
            "",
        ]
    )


def _measured(manifest: Mapping[str, Any]) -> list[str]:
    metrics = manifest["metrics"]
    found = metrics["next_click"]
    low, high = found["gain_interval"]
    return [
        "## Measured on the test events",
        "",
        "| | model | Markov, order 1 |",
        "|---|---|---|",
        f"| next event right | {100 * found['accuracy']:.2f} % | {100 * found['markov_accuracy']:.2f} % |",
        f"| log-loss, nats | {found['log_loss']:.4f} | {found['markov_log_loss']:.4f} |",
        "",
        f"Gain over Markov: {low:.4f} to {high:.4f} nats an event (95 %, sessions drawn again). Expected calibration",
        f"error {100 * found['calibration_error']:.2f} %; {manifest['training']['parameters']:,} parameters; effective",
        f"rank of the embeddings {metrics['latent_rank']:.1f}. CPU a row, one thread:",
        f"{metrics['cost_us']['rows_1']['median']} us alone, {metrics['cost_us']['rows_32']['median']} us in batches",
        f"of 32. Largest difference, alone or in a batch: {max(metrics['rows_apart'].values()):.1e}.",
        "",
    ]


def _foreign(manifest: Mapping[str, Any]) -> list[str]:
    return [
        "## What is noticed",
        "",
        "Share flagged by the evidence screen where at most 1 % of sessions' rows are, and the AUROC of each energy",
        "against the test rows. `sessions` are the test rows themselves: false alarms. Rows of one session are alike,",
        "so the intervals (95 %, rows as if drawn alone) are narrower than they should be.",
        "",
        "| sequences | rows | flagged | energy | mahalanobis | residual |",
        "|---|---|---|---|---|---|",
        *noticed(manifest["metrics"]["foreign"], fpr_max=0.01),
        "",
    ]
