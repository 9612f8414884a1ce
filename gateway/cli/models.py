"""`stockade models`; `compare`, which asks a running gateway, is in `gateway.cli.operations`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gateway.cli.arguments import (
    SEED_MAX,
    Bundle,
    BundlesTo,
    File,
    Json,
    SigningKey,
    TrustedKey,
    argument,
    config,
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
NameVersion = Annotated[str, argument("NAME/VERSION", "such as kiosk/2")]
PolicyKey = Annotated[
    Path | None, option("--key", metavar="FILE", help="sign with this key (default: sign it yourself)")
]


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
def show(file: File, json: Json = False) -> None:
    """Show versions, their state, and by whose word they may be served."""


@tool(app, "evaluate", f"{HERE}:run_evaluate")
def evaluate(
    directory: Bundle,
    data: Annotated[
        Path | None,
        option("--data", metavar="FILE", help="safetensors with inputs and labels (default: its test set)"),
    ] = None,
    config: Annotated[Path | None, config("stockade.yaml: judge by its policy, and write")] = None,
    against: Annotated[
        str | None,
        option("--against", metavar="VERSION", help="compare with this version (default: that in `serve`)"),
    ] = None,
    trusted_key: Annotated[
        Path | None, option("--trusted-key", metavar="FILE", help="who signed it, where there is no --config")
    ] = None,
    seed: Annotated[
        int,
        option("--seed", read=whole(0, SEED_MAX), metavar="N", help="which rows are attacked, and how (default: 0)"),
    ] = 0,
    replace: Annotated[bool, option("--replace", help="in place of an evaluation that somebody has signed")] = False,
    json: Json = False,
) -> None:
    """Measure a version on labelled data, for its approvers."""


@tool(app, "diff", f"{HERE}:run_diff")
def diff(
    file: File,
    model: Annotated[str, argument("NAME")],
    one: Annotated[str, argument("VERSION")],
    other: Annotated[str, argument("VERSION")],
    json: Json = False,
) -> None:
    """Show manifests, metrics and gates of two versions side by side."""


@tool(app, "sign", "gateway.tools.registry.bundles:run_sign")
def sign(
    directories: Annotated[list[Path], argument("DIR", "a bundle, such as bundles/kiosk/2")],
    *,
    signing_key: SigningKey,
    json: Json = False,
) -> None:
    """Sign bundles as they lie there: only their signature changes."""


@tool(app, "prototypes", "gateway.tools.registry.bundles:run_prototypes")
def prototypes(
    directory: Bundle,
    *,
    data: Annotated[
        Path, option("--data", metavar="FILE", help="safetensors with inputs and labels that may be shown")
    ],
    version: Annotated[int, option("--version", read=whole(1, VERSION_MAX), metavar="N", help="the new version")],
    out: BundlesTo,
    per_class: Annotated[
        int,
        option("--per-class", read=whole(1, PROTOTYPES_MAX), metavar="N", help="of each class (default: 3)"),
    ] = 3,
    nearest: Annotated[
        int,
        option("--nearest", read=whole(1, PROTOTYPES_MAX), metavar="N", help="that an answer names (default: 3)"),
    ] = 3,
    trusted_key: TrustedKey = None,
    signing_key: SigningKey,
    json: Json = False,
) -> None:
    """Write a version that can name nearest prototypes."""


@tool(app, "inspect", "gateway.tools.registry.inspection:run_inspect")
def inspect(
    directory: Bundle,
    *,
    data: Annotated[Path, option("--data", metavar="FILE", help="safetensors: clean rows with labels, by input")],
    seed: Annotated[
        int,
        option("--seed", read=whole(0, SEED_MAX), metavar="N", help="which rows and noise are taken (default: 0)"),
    ] = 0,
    trusted_key: TrustedKey = None,
    json: Json = False,
) -> None:
    """Look for a backdoor in a bundle; exit 1: it is refused."""


@tool(app, "wrap", "gateway.tools.registry.bundles:run_wrap")
def wrap(
    source: Annotated[
        Path, argument("SOURCE", "an .onnx file, or the directory of a model of Triton's or of MLflow's")
    ],
    *,
    sample: Annotated[
        Path, option("--sample", metavar="FILE", help="safetensors: 2,000 ordinary rows or more, by input")
    ],
    bundle: Annotated[str, option("--as", metavar="NAME/VERSION", help="what it is called here")],
    out: BundlesTo,
    prediction: Annotated[
        str, option("--prediction", metavar="TENSOR", help="output, rows x classes (default: the first)")
    ] = "",
    latent: Annotated[
        str, option("--latent", metavar="TENSOR", help="what densities judge (default: the last layer's)")
    ] = "",
    classes: Annotated[
        str, option("--classes", metavar="A,B,…", help="class names (default: as the layout says)")
    ] = "",
    seed: Annotated[
        int,
        option("--seed", read=whole(0, SEED_MAX), metavar="N", help="which rows fit and calibrate (default: 0)"),
    ] = 0,
    signing_key: SigningKey,
    json: Json = False,
) -> None:
    """Write the bundle of an ONNX model, calibrated on a sample."""


@tool(app, "export", "gateway.tools.registry.bundles:run_export")
def export(
    directory: Bundle,
    *,
    layout: Annotated[Literal["onnx", "triton", "mlflow"], option("--layout", help="how it is written")],
    out: Annotated[Path, option("--out", metavar="DIR", help="where; Triton: the model repository")],
    trusted_key: TrustedKey = None,
    json: Json = False,
) -> None:
    """Write a bundle's model as plain ONNX, for Triton or for MLflow."""


TENSOR = "NAME:DATATYPE:SHAPE, the rows as -1: what the server does not say, or says otherwise; may be repeated"


@tool(app, "adopt", "gateway.tools.registry.adopt_view")
def adopt(
    server: Annotated[str, option("--server", metavar="ADDRESS", help="its gRPC port, such as 127.0.0.1:8081")],
    model: Annotated[str, option("--model", metavar="NAME", help="what the model is called there")],
    out: BundlesTo,
    signing_key: SigningKey,
    version: Annotated[str, option("--version", metavar="V", help="its version there (default: the only one)")] = "",
    bundle: Annotated[
        str | None, option("--as", metavar="NAME/VERSION", help="what it is called here (default: as there)")
    ] = None,
    input: Annotated[list[str], option("--input", metavar="TENSOR", help=TENSOR)] = [],
    output: Annotated[list[str], option("--output", metavar="TENSOR", help="the same for an output")] = [],
    encoder: Annotated[
        Path | None, option("--encoder", metavar="FILE", help="ONNX graph over the same inputs, run here")
    ] = None,
    calibration: Annotated[
        Path | None, option("--calibration", metavar="FILE", help="safetensors that calibrate screens")
    ] = None,
    ca: Annotated[
        Path | None, option("--ca", metavar="FILE", help="who signed the server's certificate, PEM: uses TLS")
    ] = None,
    server_name: Annotated[
        str | None,
        option("--server-name", metavar="NAME", help="the name in its certificate, where it is another one"),
    ] = None,
    certificate: Annotated[Path | None, option("--certificate", metavar="FILE", help="client certificate, PEM")] = None,
    key: Annotated[Path | None, option("--key", metavar="FILE", help="its private key, PEM")] = None,
    token: Annotated[Path | None, option("--token", metavar="FILE", help="a file with a bearer token")] = None,
    unsafe_plaintext: Annotated[bool, option("--unsafe-plaintext", help="ask another machine without TLS")] = False,
    json: Json = False,
) -> None:
    """Write the signed bundle of a model that another server runs."""


@tool(app, "approve", f"{HERE}:run_approve")
def approve(
    file: File,
    version: NameVersion,
    *,
    approver: Annotated[str, option("--as", metavar="NAME", help="your name in `approvers`")],
    key: Annotated[Path, option("--key", metavar="FILE", help="your private key, Ed25519 in PEM")],
    data: Annotated[
        Path | None, option("--data", metavar="FILE", help="measure again on it first; refuse what differs")
    ] = None,
    override: Annotated[
        str | None, option("--override", metavar="REASON", help="let it pass although a gate does not; recorded")
    ] = None,
) -> None:
    """Sign that a version may be served."""


@tool(app, "promote", f"{HERE}:run_promote")
def promote(
    file: File,
    version: NameVersion,
    canary: Annotated[bool, option("--canary", help="step by step: 1, 10, 50, 100 % of the principals")] = False,
    shadow: Annotated[
        float | None,
        option("--shadow", read=share, metavar="RATE", help="beside the version in `serve`, on this share"),
    ] = None,
    min_labels: Annotated[
        int,
        option(
            "--min-labels",
            read=whole(0, LABELS_MAX),
            metavar="N",
            help="with --canary: not for good before that many trusted labels of its answers have come (default: 0)",
        ),
    ] = 0,
    key: PolicyKey = None,
) -> None:
    """Write the policy that puts a version in force."""
    if canary and shadow is not None:
        raise typer.BadParameter("--canary is not allowed with --shadow")


@tool(app, "rollback", f"{HERE}:run_rollback")
def rollback(
    file: File,
    version: Annotated[str, argument("NAME[/VERSION]", "default: end a release; else what it replaced")],
    key: PolicyKey = None,
) -> None:
    """Write the policy that goes back to a version."""


add_to(app, "models")
