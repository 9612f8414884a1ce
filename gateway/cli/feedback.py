"""`stockade feedback key|train`; what asks a running gateway is in `gateway.cli.operations`."""

from __future__ import annotations

from pathlib import Path

from gateway.cli.arguments import CA, FILE, IDENTITY, JSON, SEED_MAX, command, group, option, tool, whole
from gateway.cli.operations import add_to

app = group("labels that clients sent: see them, decide on them, learn from them")
VERSION_MAX = 999_999_999


@command(app, "key")
def key(
    out: Path = option("--out FILE", "the private key, created with mode 0600"),
    json: bool = option("--json", "print JSON, never the private key", False),
) -> int:
    """Make a key that labels are signed with; prints what the policy needs."""
    import sys

    from gateway.tools.terminal import fail, print_json
    from serving.registry.approval import key_hex, make_key

    try:
        public = key_hex(make_key(out))
    except OSError as problem:
        return fail(problem)
    if json:
        print_json({"file": str(out), "feedback_key": public})
    else:
        sys.stdout.write(f'feedback_keys: ["{public}"]\n')
    return 0


add_to(app, "feedback")


@tool(app, "train", "gateway.tools.registry.label_training:run")
def train(
    file: Path = FILE,
    identity: Path | None = IDENTITY,
    ca: Path | None = CA,
    model: str = option("--model NAME", "kiosk is the one whose recipe goes on from labels"),
    version: int = option("--version N", "the version to make", read=whole(1, VERSION_MAX)),
    signing_key: Path = option("--signing-key FILE", "ECDSA P-256 private key in PEM, for the candidate"),
    data: Path | None = option("--data DIR", "Fashion-MNIST's idx files (default: Debian's package)", None),
    seed: int = option("--seed N", "which trusted rows are learned beside (0)", 0, whole(0, SEED_MAX)),
    json: bool = JSON,
) -> None:
    """Make a candidate version of labels."""
