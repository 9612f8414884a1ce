"""The model card of a bundle, generated from its manifest (Mitchell et al. 2019, arXiv 1810.03993).

A recipe's card is a template and what is put into it; every figure in it stands in the manifest too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from serving.train.report import ENERGIES

DIRECTIONS = {1: "never falls", -1: "never rises", 0: "free"}
SMOKE = "\n\n**Made by a smoke run: it tests the recipe and is of no other use.**"
UNPUBLISHED = "\n\n**This is not the published table.**"

KIOSK = """\
# {name} {version}

Recognises one of ten kinds of product on a 28 x 28 grey image, and says how unlike its training it is.{smoke}

## Use

Input `image`: FP32 (rows, 28, 28), `float32(pixel) / 255`, white product on black.
Outputs for each row: `probabilities`, `logits`, `latent`, and three energies that rise with surprise:
`energy` (-logsumexp of the logits), `mahalanobis` (middle features, to the nearest class), `residual`
(what the leading principal components of the training images leave over).

Not for: photographs, colour, products outside the ten classes (see what is noticed below), or decisions
about people. The energies find foreign images; they do not stop an adaptive attacker by themselves.

## Data

{data[name]}, {data[licence]}. Train {rows[train]:,}, screen fit {rows[fit]:,},
conformal calibration {rows[calibrate]:,}, test {rows[test]:,} images, disjoint.
The test images took no part in any choice that training makes.

## Measured on the test images

| | |
|---|---|
| accuracy | {accuracy:.2f} % |
| expected calibration error | {calibration_error:.2f} % |
| parameters | {training[parameters]:,} |
| CPU a row, batches of 32, one thread | {cost_32} us |
| CPU a row, alone | {cost_1} us |
| largest difference, alone or in a batch | {apart:.1e} |

{robust}| class | recall |
|---|---|
{recall}
## What is noticed

Share flagged by the evidence screen where at most 1 % of products are (95 % intervals), and the AUROC of
each energy against the test images. `products` are the test images themselves: false alarms.

| images | rows | flagged | energy | mahalanobis | residual |
|---|---|---|---|---|---|
{noticed}
Digits: {data[foreign][digits]}.

## Training

{training[loop][epochs]} epochs, seed {training[loop][seed]}, {training[objective]}.
`stockade train kiosk --recipe {training[recipe]}` rebuilds this bundle.
"""

ROBUST = """\
Right whatever an attacker who has the weights does within {norm} {radius}:

| attack | right (95 % interval) | test images |
|---|---|---|
{rows}
"""

CLICKSTREAM = """\
# {name} {version}

Says what a visitor of a shop clicks next, gives an embedding of the visitor, and says how unlike its
training a sequence of clicks is.{smoke}

## Use

Input `events`: INT64 (rows, {inputs[0][shape][1]}), the last ids of a visitor's stream,
the newest last, padded on the left with {data[ids][padding]}; every session begins with the mark
{data[ids][session]}. Ids: {ids}.

Outputs for each row: `probabilities` of the next event; `embedding`, the state after the last event, for
segments and audiences (reserve it to the roles that may have it: `reserved` in the policy); `latent`,
where the next event is expected; and three energies that rise with surprise: `energy` (-logsumexp of the
logits), `mahalanobis` (of the embedding, to the training rows), `residual` (mean surprise over the
window's own events).

Not for: events outside the list, other shops without training again, decisions about single people. The
data are synthetic.

## Data

{data[name]}, {data[licence]}, {data[source]}.
Events (sessions): {splits}.
{test} are the test; they took no part in any choice that training makes.
Earlier events of the same visitor may stand in the window of a later one.

## Measured on the test events

| | model | Markov, order 1 |
|---|---|---|
| next event right | {accuracy:.2f} % | {markov_accuracy:.2f} % |
| log-loss, nats | {next[log_loss]:.4f} | {next[markov_log_loss]:.4f} |

Gain over Markov: {low:.4f} to {high:.4f} nats an event (95 %, sessions drawn again). Expected calibration
error {calibration_error:.2f} %; {training[parameters]:,} parameters; effective
rank of the embeddings {metrics[latent_rank]:.1f}. CPU a row, one thread:
{cost_1} us alone, {cost_32} us in batches
of 32. Largest difference, alone or in a batch: {apart:.1e}.

## What is noticed

Share flagged by the evidence screen where at most 1 % of sessions' rows are, and the AUROC of each energy
against the test rows. `sessions` are the test rows themselves: false alarms. Rows of one session are alike,
so the intervals (95 %, rows as if drawn alone) are narrower than they should be.

| sequences | rows | flagged | energy | mahalanobis | residual |
|---|---|---|---|---|---|
{noticed}
## Training

{epochs} epochs, seed {training[loop][seed]}; {training[objective]}.
`stockade train clickstream` rebuilds this bundle.
"""

PAYMENTS = """\
# {name} {version}

Says how likely a loan application is to go bad, and which of its facts count against it.{smoke}

## Use

Input `features`: FP32 (rows, {width}), in the order below. A category is its code, its
place in the list from 0. What is not known is -1.
Outputs for each row: `probabilities` (good, bad), `logit` of bad, `contributions` (one a term; with the
intercept, {training[intercept]:.6f}, they add up to `logit`), `reason_codes` (up to {codes}, most
adverse first, 0 is none; names in the manifest), `latent`, and three energies that rise with surprise:
`energy` (error of each feature predicted from the others), `mahalanobis`, `residual`. Energies
screen and never decide.

Left out of everything: {left_out}.

Not for: decisions about people without a person who answers for them; populations other than the data's.
A term says what the model did, not what causes a default.

| place | feature | levels, or the largest value |
|---|---|---|
{features}
## Terms

| code | function of | risk as it grows | contribution | reason |
|---|---|---|---|---|
{terms}
## Data

{data[name]}, {data[licence]}. Train {rows[train]:,}, conformal calibration
{rows[calibrate]:,}, test {rows[test]:,} rows, disjoint;
{share_bad:.1f} % bad. The decision learned from train and calibration,
the energies from train.{unpublished}

## Measured on the test rows

| | |
|---|---|
| AUC | {metrics[auc]:.4f} |
| expected calibration error | {calibration_error:.2f} % |
| Brier score | {metrics[brier]:.4f} |
| largest difference of score and sum | {metrics[sum_apart]:.1e} |
| largest step against a direction | {metrics[wrong_way]:.1e} |
| largest difference, alone or in a batch | {apart:.1e} |
| CPU a row, batches of 32, one thread | {cost_32} us |
| CPU a row, alone | {cost_1} us |

## What is noticed

Share flagged by the evidence screen where at most 5 % of applications are (95 % intervals), and the AUROC of
each energy against the test rows. `applications` are the test rows themselves: false alarms.

| rows | count | flagged | energy | mahalanobis | residual |
|---|---|---|---|---|---|
{noticed}
`stockade train payments` rebuilds this bundle.
"""


def write_card(manifest: Mapping[str, Any]) -> str:
    """Return the card of a bundle of ours in Markdown."""
    template, values, promise = CARDS[manifest["name"]]
    metrics = manifest["metrics"]
    return template.format(
        **manifest,
        **values(manifest),
        rows=manifest["data"]["rows"],
        smoke=SMOKE if manifest["training"]["smoke"] else "",
        cost_1=metrics["cost_us"]["rows_1"]["median"],
        cost_32=metrics["cost_us"]["rows_32"]["median"],
        apart=max(metrics["rows_apart"].values()),
        noticed=_lines(_noticed(kind, found, promise) for kind, found in metrics["foreign"].items()),
    )


def _kiosk(manifest: Mapping[str, Any]) -> dict[str, Any]:
    metrics, robust = manifest["metrics"], ""
    if (robustness := metrics.get("robustness")) is not None:
        attacks = {name: found for name, found in robustness.items() if isinstance(found, Mapping)}
        rows = (
            f"| {name.replace('_', ' ')} | {_share(found['right'], found['interval'])} | {found['rows']:,} |"
            for name, found in attacks.items()
        )
        robust = ROBUST.format(norm=robustness["norm"], radius=robustness["radius"], rows=_lines(rows))
    return {
        "accuracy": 100 * metrics["accuracy"],
        "calibration_error": 100 * metrics["calibration_error"],
        "robust": robust,
        "recall": _lines(f"| {name} | {100 * recall:.1f} % |" for name, recall in metrics["recall"].items()),
    }


def _clickstream(manifest: Mapping[str, Any]) -> dict[str, Any]:
    data, found = manifest["data"], manifest["metrics"]["next_click"]
    percent = ("accuracy", "markov_accuracy", "calibration_error")
    return {
        **{name: 100 * found[name] for name in percent},
        "next": found,
        "low": found["gain_interval"][0],
        "high": found["gain_interval"][1],
        "ids": ", ".join(f"{number} {name}" for name, number in data["ids"].items()),
        "splits": ", ".join(f"{name} {rows:,} ({data['sessions'][name]:,})" for name, rows in data["rows"].items()),
        "test": data["split"]["test"].capitalize(),
        "epochs": len(manifest["training"]["history"]),
    }


def _payments(manifest: Mapping[str, Any]) -> dict[str, Any]:
    data = manifest["data"]
    features = (
        f"| {place} | {feature['name']} | {', '.join(feature['levels']) or format(feature['high'], ',.0f')} |"
        for place, feature in enumerate(data["features"])
    )
    terms = (
        f"| {code} | {term['source']} | {DIRECTIONS[term['direction']]} | {min(term['contributions']):+.2f} to "
        f"{max(term['contributions']):+.2f} | {term['reason']} |"
        for code, term in enumerate(manifest["training"]["terms"], 1)
    )
    return {
        "width": len(data["features"]),
        "codes": next(spec["shape"][1] for spec in manifest["outputs"] if spec["name"] == "reason_codes"),
        "left_out": ", ".join(data["left_out"]),
        "features": _lines(features),
        "terms": _lines(terms),
        "share_bad": 100 * data["share_bad"],
        "calibration_error": 100 * manifest["metrics"]["calibration_error"],
        "unpublished": "" if data["published"] else UNPUBLISHED,
    }


CARDS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]], float]] = {
    "kiosk": (KIOSK, _kiosk, 0.01),
    "clickstream": (CLICKSTREAM, _clickstream, 0.01),
    "payments": (PAYMENTS, _payments, 0.05),
}
"""By name of the bundle: the template, what is put into it, and the promise at which what is noticed is shown."""


def _noticed(kind: str, found: Mapping[str, Any], promise: float) -> str:
    flagged = next(point for point in found["flagged"] if point["fpr_max"] == promise)
    areas = " | ".join(f"{found['auroc'][energy]:.3f}" for energy in ENERGIES)
    return f"| {kind} | {found['rows']:,} | {_share(flagged['rate'], flagged['interval'])} | {areas} |"


def _share(share: float, interval: tuple[float, float]) -> str:
    low, high = (100 * bound for bound in interval)
    return f"{100 * share:.2f} % ({low:.2f} - {high:.2f})"


def _lines(rows: Iterable[str]) -> str:
    return "".join(f"{row}\n" for row in rows)
