"""`stockade models`; `compare`, which asks a running gateway, is in `gateway.cli.operations`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from gateway.cli.arguments import (
    BUNDLE,
    BUNDLES_TO,
    FILE,
    JSON,
    SEED_MAX,
    SIGNING_KEY,
    TRUSTED_KEY,
    argument,
    group,
    option,
    tool,
    whole,
)
from gateway.cli.operations import add_to

app = group("signed models: what they have proven, who said so, which of them answer")
HERE = "gateway.tools.registry.verbs"
VERSION_MAX = 999_999_999
PROTOTYPES_MAX = 100
LABELS_MAX = 1_000_000
NAME_VERSION = argument("NAME/VERSION", "such as kiosk/2")
POLICY_KEY = option("--key FILE", "sign with this key (default: sign it yourself)", None)


def share(text: str) -> float:
    """Read a share of batches: above 0, at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise typer.BadParameter(f"{text!r} is not a share above 0, at most 1")
    return value


@tool(app, "list", f"{HERE}:run_list")
def show(file: Path = FILE, json: bool = JSON) -> None:
    """Show versions, their state, and by whose word they may be served."""


@tool(app, "evaluate", f"{HERE}:run_evaluate")
def evaluate(
    directory: Path = BUNDLE,
    data: Path | None = option("--data FILE", "safetensors with inputs and labels (default: its test set)", None),
    config: Path | None = option("--config FILE", "stockade.yaml: judge by its policy, and write", None),
    against: str | None = option("--against VERSION", "compare with this version (default: that in `serve`)", None),
    trusted_key: Path | None = option("--trusted-key FILE", "who signed it, where there is no --config", None),
    seed: int = option("--seed N", "which rows are attacked, and how (default: 0)", 0, whole(0, SEED_MAX)),
    replace: bool = option("--replace", "in place of an evaluation that somebody has signed", False),
    json: bool = JSON,
) -> None:
    """Measure a version on labelled data, for its approvers."""


@tool(app, "diff", f"{HERE}:run_diff")
def diff(
    file: Path = FILE,
    model: str = argument("NAME"),
    one: str = argument("VERSION"),
    other: str = argument("VERSION"),
    json: bool = JSON,
) -> None:
    """Show manifests, metrics and gates of two versions side by side."""


@tool(app, "sign", "gateway.tools.registry.bundles:run_sign")
def sign(
    directories: list[Path] = argument("DIR", "a bundle, such as bundles/kiosk/2"),
    signing_key: Path = SIGNING_KEY,
    json: bool = JSON,
) -> None:
    """Sign bundles as they lie there: only their signature changes."""


@tool(app, "prototypes", "gateway.tools.registry.bundles:run_prototypes")
def prototypes(
    directory: Path = BUNDLE,
    data: Path = option("--data FILE", "safetensors with inputs and labels that may be shown"),
    version: int = option("--version N", "the new version", read=whole(1, VERSION_MAX)),
    out: Path = BUNDLES_TO,
    per_class: int = option("--per-class N", "of each class (default: 3)", 3, whole(1, PROTOTYPES_MAX)),
    nearest: int = option("--nearest N", "that an answer names (default: 3)", 3, whole(1, PROTOTYPES_MAX)),
    trusted_key: Path | None = TRUSTED_KEY,
    signing_key: Path = SIGNING_KEY,
    json: bool = JSON,
) -> None:
    """Write a version that can name nearest prototypes."""


@tool(app, "inspect", "gateway.tools.registry.inspection:run_inspect")
def inspect(
    directory: Path = BUNDLE,
    data: Path = option("--data FILE", "safetensors: clean rows with labels, by input"),
    seed: int = option("--seed N", "which rows and noise are taken (default: 0)", 0, whole(0, SEED_MAX)),
    trusted_key: Path | None = TRUSTED_KEY,
    json: bool = JSON,
) -> None:
    """Look for a backdoor in a bundle; exit 1: it is refused."""


@tool(app, "wrap", "gateway.tools.registry.bundles:run_wrap")
def wrap(
    source: Path = argument("SOURCE", "an .onnx file, or the directory of a model of Triton's or of MLflow's"),
    sample: Path = option("--sample FILE", "safetensors: 2,000 ordinary rows or more, by input"),
    bundle: str = option("--as NAME/VERSION", "what it is called here"),
    out: Path = BUNDLES_TO,
    prediction: str = option("--prediction TENSOR", "output, rows x classes (default: the first)", ""),
    latent: str = option("--latent TENSOR", "what densities judge (default: the last layer's)", ""),
    classes: str = option("--classes A,B,…", "class names (default: as the layout says)", ""),
    seed: int = option("--seed N", "which rows fit and calibrate (default: 0)", 0, whole(0, SEED_MAX)),
    signing_key: Path = SIGNING_KEY,
    json: bool = JSON,
) -> None:
    """Write the bundle of an ONNX model, calibrated on a sample."""


@tool(app, "export", "gateway.tools.registry.bundles:run_export")
def export(
    directory: Path = BUNDLE,
    layout: Literal["onnx", "triton", "mlflow"] = option("--layout", "how it is written"),
    out: Path = option("--out DIR", "where; Triton: the model repository"),
    trusted_key: Path | None = TRUSTED_KEY,
    json: bool = JSON,
) -> None:
    """Write a bundle's model as plain ONNX, for Triton or for MLflow."""


TENSOR = "NAME:DATATYPE:SHAPE, the rows as -1: what the server does not say, or says otherwise; may be repeated"


@tool(app, "adopt", "gateway.tools.registry.adopt_view")
def adopt(
    server: str = option("--server ADDRESS", "its gRPC port, such as 127.0.0.1:8081"),
    model: str = option("--model NAME", "what the model is called there"),
    out: Path = BUNDLES_TO,
    signing_key: Path = SIGNING_KEY,
    version: str = option("--version V", "its version there (default: the only one)", ""),
    bundle: str | None = option("--as NAME/VERSION", "what it is called here (default: as there)", None),
    input: list[str] = option("--input TENSOR", TENSOR, []),
    output: list[str] = option("--output TENSOR", "the same for an output", []),
    encoder: Path | None = option("--encoder FILE", "ONNX graph over the same inputs, run here", None),
    calibration: Path | None = option("--calibration FILE", "safetensors that calibrate screens", None),
    ca: Path | None = option("--ca FILE", "who signed the server's certificate, PEM: uses TLS", None),
    server_name: str | None = option(
        "--server-name NAME", "the name in its certificate, where it is another one", None
    ),
    certificate: Path | None = option("--certificate FILE", "client certificate, PEM", None),
    key: Path | None = option("--key FILE", "its private key, PEM", None),
    token: Path | None = option("--token FILE", "a file with a bearer token", None),
    unsafe_plaintext: bool = option("--unsafe-plaintext", "ask another machine without TLS", False),
    json: bool = JSON,
) -> None:
    """Write the signed bundle of a model that another server runs."""


@tool(app, "approve", f"{HERE}:run_approve")
def approve(
    file: Path = FILE,
    version: str = NAME_VERSION,
    approver: str = option("--as NAME", "your name in `approvers`"),
    key: Path = option("--key FILE", "your private key, Ed25519 in PEM"),
    data: Path | None = option("--data FILE", "measure again on it first; refuse what differs", None),
    override: str | None = option("--override REASON", "let it pass although a gate does not; recorded", None),
) -> None:
    """Sign that a version may be served."""


@tool(app, "promote", f"{HERE}:run_promote")
def promote(
    file: Path = FILE,
    version: str = NAME_VERSION,
    canary: bool = option("--canary", "step by step: 1, 10, 50, 100 % of the principals", False),
    shadow: float | None = option("--shadow RATE", "beside the version in `serve`, on this share", None, share),
    min_labels: int = option(
        "--min-labels N",
        "with --canary: not for good before that many trusted labels of its answers have come (default: 0)",
        0,
        whole(0, LABELS_MAX),
    ),
    key: Path | None = POLICY_KEY,
) -> None:
    """Write the policy that puts a version in force."""
    if canary and shadow is not None:
        raise typer.BadParameter("--canary is not allowed with --shadow")


@tool(app, "rollback", f"{HERE}:run_rollback")
def rollback(
    file: Path = FILE,
    version: str = argument("NAME[/VERSION]", "default: end a release; else what it replaced"),
    key: Path | None = POLICY_KEY,
) -> None:
    """Write the policy that goes back to a version."""


add_to(app, "models")
