"""The model card of a payments bundle, generated from its manifest (Mitchell et al. 2019, arXiv 1810.03993)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.train.card import noticed

DIRECTIONS = {1: "never falls", -1: "never rises", 0: "free"}


def write_payments_card(manifest: Mapping[str, Any]) -> str:
    """Return the card in Markdown. Every figure in it stands in the manifest too."""
    metrics, training, data = manifest["metrics"], manifest["training"], manifest["data"]
    shown = next(spec["shape"][1] for spec in manifest["outputs"] if spec["name"] == "reason_codes")
    return "\n".join(
        [
            f"# {manifest['name']} {manifest['version']}",
            "",
            "Says how likely a loan application is to go bad, and which of its facts count against it.",
            *(
                ["", "**Made by a smoke run: it tests the recipe and is of no other use.**"]
                if training["smoke"]
                else []
            ),
            "",
            "## Use",
            "",
            f"Input `features`: FP32 (rows, {len(data['features'])}), in the order below. A category is its code, its",
            "place in the list from 0. What is not known is -1.",
            "Outputs for each row: `probabilities` (good, bad), `logit` of bad, `contributions` (one a term; with the",
            f"intercept, {training['intercept']:.6f}, they add up to `logit`), `reason_codes` (up to {shown}, most",
            "adverse first, 0 is none; names in the manifest), `latent`, and three energies that rise with surprise:",
            "`energy` (error of each feature predicted from the others), `mahalanobis`, `residual`. Energies",
            "screen and never decide.",
            "",
            f"Left out of everything: {', '.join(data['left_out'])}.",
            "",
            "Not for: decisions about people without a person who answers for them; populations other than the data's.",
            "A term says what the model did, not what causes a default.",
            "",
            *_features(data),
            *_terms(training),
            "## Data",
            "",
            f"{data['name']}, {data['licence']}. Train {data['rows']['train']:,}, conformal calibration",
            f"{data['rows']['calibrate']:,}, test {data['rows']['test']:,} rows, disjoint;",
            f"{100 * data['share_bad']:.1f} % bad. The decision learned from train and calibration,",
            "the energies from train.",
            *([] if data["published"] else ["", "**This is not the published table.**"]),
            "",
            "## Measured on the test rows",
            "",
            "| | |",
            "|---|---|",
            f"| AUC | {metrics['auc']:.4f} |",
            f"| expected calibration error | {100 * metrics['calibration_error']:.2f} % |",
            f"| Brier score | {metrics['brier']:.4f} |",
            f"| largest difference of score and sum | {metrics['sum_apart']:.1e} |",
            f"| largest step against a direction | {metrics['wrong_way']:.1e} |",
            f"| largest difference, alone or in a batch | {max(metrics['rows_apart'].values()):.1e} |",
            f"| CPU a row, batches of 32, one thread | {metrics['cost_us']['rows_32']['median']} us |",
            f"| CPU a row, alone | {metrics['cost_us']['rows_1']['median']} us |",
            "",
            *_strange(metrics),
            "`stockade train payments` rebuilds this bundle.",
            "",
        ]
    )


def _features(data: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {place} | {feature['name']} | {', '.join(feature['levels']) or format(feature['high'], ',.0f')} |"
        for place, feature in enumerate(data["features"])
    ]
    return ["| place | feature | levels, or the largest value |", "|---|---|---|", *rows, ""]


def _terms(training: Mapping[str, Any]) -> list[str]:
    rows = []
    for code, term in enumerate(training["terms"], 1):
        low, high = min(term["contributions"]), max(term["contributions"])
        risk = DIRECTIONS[term["direction"]]
        rows.append(f"| {code} | {term['source']} | {risk} | {low:+.2f} to {high:+.2f} | {term['reason']} |")
    return [
        "## Terms",
        "",
        "| code | function of | risk as it grows | contribution | reason |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _strange(metrics: Mapping[str, Any]) -> list[str]:
    return [
        "## What is noticed",
        "",
        "Share flagged by the evidence screen where at most 5 % of applications are (95 % intervals), and the AUROC of",
        "each energy against the test rows. `applications` are the test rows themselves: false alarms.",
        "",
        "| rows | count | flagged | energy | mahalanobis | residual |",
        "|---|---|---|---|---|---|",
        *noticed(metrics["foreign"], fpr_max=0.05),
        "",
    ]
