"""The arguments of `stockade models` and of `stockade keys approver`.

Importing this loads neither models nor the files' parsers: `stockade --help` stays fast. What the verbs do is in
`gateway.tools.registry.verbs`.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.verbs import lazy, named, reaching, verb
from gateway.tools.arguments import whole

if TYPE_CHECKING:
    import argparse

HERE = "gateway.tools.registry.verbs"
SEED_MAX = 2**32 - 1
VERSION_MAX = 999_999_999
PROTOTYPES_MAX = 100
LABELS_MAX = 1_000_000


def share(text: str) -> float:
    """Read a share of batches: above 0, at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"{text!r} is not a share above 0, at most 1")
    return value


def add_verbs(models: Any) -> None:
    """Add the verbs to `stockade models`."""
    for add in (
        add_list,
        add_evaluate,
        add_diff,
        add_sign,
        add_prototypes,
        add_inspect,
        add_wrap,
        add_export,
        add_adopt,
    ):
        add(models).add_argument("--json", action="store_true", help="print JSON")
    for change in (add_approve, add_promote, add_rollback):
        change(models)
    reaching(
        verb(
            models,
            "compare",
            lazy("gateway.tools.operations.releases"),
            "show how the versions of models under release do",
        )
    )


def add_list(models: Any) -> argparse.ArgumentParser:
    """Add `stockade models list`."""
    text = "show versions, their state, and by whose word they may be served"
    listed = verb(models, "list", named(HERE, "list"), text)
    configured(listed)
    return listed


def add_evaluate(models: Any) -> argparse.ArgumentParser:
    """Add `stockade models evaluate`."""
    text = "measure a version on labelled data, for its approvers"
    evaluate = verb(models, "evaluate", named(HERE, "evaluate"), text)
    evaluate.add_argument("directory", type=Path, metavar="DIR", help="the bundle, such as bundles/kiosk/2")
    evaluate.add_argument(
        "--data", type=Path, metavar="FILE", help="safetensors with inputs and labels (default: its test set)"
    )
    evaluate.add_argument("--config", type=Path, metavar="FILE", help="stockade.yaml: judge by its policy, and write")
    evaluate.add_argument("--against", metavar="VERSION", help="compare with this version (default: that in `serve`)")
    evaluate.add_argument("--trusted-key", type=Path, metavar="FILE", help="who signed it, where there is no --config")
    evaluate.add_argument(
        "--seed", type=whole(0, SEED_MAX), default=0, help="which rows are attacked, and how (default: 0)"
    )
    evaluate.add_argument("--replace", action="store_true", help="in place of an evaluation that somebody has signed")
    return evaluate


def add_approve(models: Any) -> None:
    """Add `stockade models approve`."""
    approve = verb(models, "approve", named(HERE, "approve"), "sign that a version may be served")
    configured(approve)
    approve.add_argument("version", metavar="NAME/VERSION", help="such as kiosk/2")
    approve.add_argument("--as", dest="approver", required=True, metavar="NAME", help="your name in `approvers`")
    approve.add_argument("--key", type=Path, required=True, metavar="FILE", help="your private key, Ed25519 in PEM")
    approve.add_argument("--data", type=Path, metavar="FILE", help="measure again on it first; refuse what differs")
    approve.add_argument("--override", metavar="REASON", help="let it pass although a gate does not; recorded")


def add_promote(models: Any) -> None:
    """Add `stockade models promote`."""
    promote = verb(models, "promote", named(HERE, "promote"), "write the policy that puts a version in force")
    configured(promote)
    promote.add_argument("version", metavar="NAME/VERSION", help="such as kiosk/2")
    way = promote.add_mutually_exclusive_group()
    way.add_argument("--canary", action="store_true", help="step by step: 1, 10, 50, 100 %% of the principals")
    way.add_argument("--shadow", type=share, metavar="RATE", help="beside the version in `serve`, on this share")
    promote.add_argument(
        "--min-labels",
        type=whole(0, LABELS_MAX),
        default=0,
        metavar="N",
        help="with --canary: not for good before that many trusted labels of its answers have come (default: 0)",
    )
    policy_key(promote)


def add_rollback(models: Any) -> None:
    """Add `stockade models rollback`."""
    rollback = verb(models, "rollback", named(HERE, "rollback"), "write the policy that goes back to a version")
    configured(rollback)
    rollback.add_argument("version", metavar="NAME[/VERSION]", help="default: end a release; else what it replaced")
    policy_key(rollback)


def add_diff(models: Any) -> argparse.ArgumentParser:
    """Add `stockade models diff`."""
    diff = verb(models, "diff", named(HERE, "diff"), "show manifests, metrics and gates of two versions side by side")
    configured(diff)
    diff.add_argument("model", metavar="NAME")
    diff.add_argument("one", metavar="VERSION")
    diff.add_argument("other", metavar="VERSION")
    return diff


def add_sign(models: Any) -> argparse.ArgumentParser:
    """Add `stockade models sign`."""
    sign = verb(models, "sign", named(HERE, "sign"), "sign bundles as they lie there: only their signature changes")
    sign.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="a bundle, such as bundles/kiosk/2")
    signing_key(sign)
    return sign


def add_prototypes(models: Any) -> argparse.ArgumentParser:
    """Add `stockade models prototypes`."""
    prototypes = verb(
        models, "prototypes", named(HERE, "prototypes"), "write a version that can name nearest prototypes"
    )
    prototypes.add_argument("directory", type=Path, metavar="DIR", help="the bundle, such as bundles/kiosk/1")
    prototypes.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="safetensors with inputs and labels that may be shown"
    )
    prototypes.add_argument("--version", type=whole(1, VERSION_MAX), required=True, metavar="N", help="the new version")
    prototypes.add_argument("--out", type=Path, required=True, metavar="DIR", help="bundles.directory of stockade.yaml")
    for name, default, text in (("per-class", 3, "of each class"), ("nearest", 3, "that an answer names")):
        prototypes.add_argument(
            f"--{name}",
            type=whole(1, PROTOTYPES_MAX),
            default=default,
            metavar="N",
            help=f"{text} (default: {default})",
        )
    trusted_key(prototypes)
    signing_key(prototypes)
    return prototypes


def add_inspect(models: Any) -> argparse.ArgumentParser:
    """Add `stockade models inspect`."""
    inspect = verb(models, "inspect", named(HERE, "inspect"), "look for a backdoor in a bundle; exit 1: it is refused")
    inspect.add_argument("directory", type=Path, metavar="DIR", help="the bundle, such as bundles/kiosk/1")
    inspect.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="safetensors: clean rows with labels, by input"
    )
    inspect.add_argument(
        "--seed", type=whole(0, SEED_MAX), default=0, help="which rows and noise are taken (default: 0)"
    )
    trusted_key(inspect)
    return inspect


def add_wrap(models: Any) -> argparse.ArgumentParser:
    """Add `stockade models wrap`."""
    wrap = verb(models, "wrap", named(HERE, "wrap"), "write the bundle of an ONNX model, calibrated on a sample")
    wrap.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="an .onnx file, or the directory of a model of Triton's or of MLflow's",
    )
    wrap.add_argument(
        "--sample", type=Path, required=True, metavar="FILE", help="safetensors: 2,000 ordinary rows or more, by input"
    )
    wrap.add_argument("--as", dest="bundle", required=True, metavar="NAME/VERSION", help="what it is called here")
    wrap.add_argument("--out", type=Path, required=True, metavar="DIR", help="bundles.directory of stockade.yaml")
    wrap.add_argument("--prediction", default="", metavar="TENSOR", help="output, rows x classes (default: the first)")
    wrap.add_argument("--latent", default="", metavar="TENSOR", help="what densities judge (default: the last layer's)")
    wrap.add_argument("--classes", default="", metavar="A,B,…", help="class names (default: as the layout says)")
    wrap.add_argument("--seed", type=whole(0, SEED_MAX), default=0, help="which rows fit and calibrate (default: 0)")
    signing_key(wrap)
    return wrap


def add_export(models: Any) -> argparse.ArgumentParser:
    """Add `stockade models export`."""
    text = "write a bundle's model as plain ONNX, for Triton or for MLflow"
    export = verb(models, "export", named(HERE, "export"), text)
    export.add_argument("directory", type=Path, metavar="DIR", help="the bundle, such as bundles/kiosk/1")
    export.add_argument("--layout", choices=("onnx", "triton", "mlflow"), required=True, help="how it is written")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="where; Triton: the model repository")
    trusted_key(export)
    return export


def add_adopt(models: Any) -> argparse.ArgumentParser:
    """Add `stockade models adopt`."""
    adopt = verb(
        models,
        "adopt",
        lazy("gateway.tools.registry.adopt_view"),
        "write the signed bundle of a model that another server runs",
    )
    adopt.add_argument("--server", required=True, metavar="ADDRESS", help="its gRPC port, such as 127.0.0.1:8081")
    adopt.add_argument("--model", required=True, metavar="NAME", help="what the model is called there")
    adopt.add_argument("--version", default="", metavar="V", help="its version there (default: the only one)")
    adopt.add_argument("--as", dest="bundle", metavar="NAME/VERSION", help="what it is called here (default: as there)")
    adopt.add_argument("--out", type=Path, required=True, metavar="DIR", help="bundles.directory of stockade.yaml")
    signing_key(adopt)
    tensor = "NAME:DATATYPE:SHAPE, the rows as -1: what the server does not say, or says otherwise; may be repeated"
    adopt.add_argument("--input", action="append", default=[], metavar="TENSOR", help=tensor)
    adopt.add_argument("--output", action="append", default=[], metavar="TENSOR", help="the same for an output")
    adopt.add_argument("--encoder", type=Path, metavar="FILE", help="ONNX graph over the same inputs, run here")
    adopt.add_argument("--calibration", type=Path, metavar="FILE", help="safetensors that calibrate screens")
    adopt.add_argument("--ca", type=Path, metavar="FILE", help="who signed the server's certificate, PEM: uses TLS")
    adopt.add_argument("--server-name", metavar="NAME", help="the name in its certificate, where it is another one")
    adopt.add_argument("--certificate", type=Path, metavar="FILE", help="client certificate, PEM")
    adopt.add_argument("--key", type=Path, metavar="FILE", help="its private key, PEM")
    adopt.add_argument("--token", type=Path, metavar="FILE", help="a file with a bearer token")
    adopt.add_argument("--unsafe-plaintext", action="store_true", help="ask another machine without TLS")
    return adopt


def configured(parser: argparse.ArgumentParser) -> None:
    """Add the configuration of the gateway that it is about."""
    parser.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")


def policy_key(parser: argparse.ArgumentParser) -> None:
    """Add the key that the new policy is signed with."""
    parser.add_argument("--key", type=Path, metavar="FILE", help="sign with this key (default: sign it yourself)")


def trusted_key(parser: argparse.ArgumentParser) -> None:
    """Add whose signature of a bundle is believed."""
    parser.add_argument("--trusted-key", type=Path, metavar="FILE", help="who signed it (default: the project)")


def signing_key(parser: argparse.ArgumentParser) -> None:
    """Add the key that a bundle is signed with."""
    parser.add_argument(
        "--signing-key",
        type=Path,
        required=True,
        metavar="FILE",
        help="ECDSA P-256 private key in PEM; created when absent, its public half is written beside it as .pub",
    )


def add_key_verb(keys: Any) -> None:
    """Add `stockade keys approver`."""
    approver = verb(keys, "approver", named(HERE, "key"), "make an approver's key; prints what to put into the policy")
    approver.add_argument("name", metavar="NAME", help="the approver's name in the policy")
    approver.add_argument("--out", type=Path, required=True, help="file for the private key, created with mode 0600")
    approver.add_argument("--json", action="store_true", help="print what was made as JSON, never the private key")
