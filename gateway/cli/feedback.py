"""`stockade feedback key|train`; what asks a running gateway is in `gateway.cli.operations`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from gateway.cli.arguments import SEED_MAX, Ca, File, Identity, Json, command, group, option, tool, whole
from gateway.cli.operations import add_to

app = group("labels that clients sent: see them, decide on them, learn from them")
VERSION_MAX = 999_999_999


@command(app, "key")
def key(
    out: Annotated[Path, option("--out", metavar="FILE", help="the private key, created with mode 0600")],
    json: Annotated[bool, option("--json", help="print JSON, never the private key")] = False,
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
    file: File,
    *,
    identity: Identity = None,
    ca: Ca = None,
    model: Annotated[str, option("--model", metavar="NAME", help="kiosk is the one whose recipe goes on from labels")],
    version: Annotated[int, option("--version", read=whole(1, VERSION_MAX), metavar="N", help="the version to make")],
    signing_key: Annotated[
        Path, option("--signing-key", metavar="FILE", help="ECDSA P-256 private key in PEM, for the candidate")
    ],
    data: Annotated[
        Path | None, option("--data", metavar="DIR", help="Fashion-MNIST's idx files (default: Debian's package)")
    ] = None,
    seed: Annotated[
        int,
        option("--seed", read=whole(0, SEED_MAX), metavar="N", help="which trusted rows are learned beside (0)"),
    ] = 0,
    json: Json = False,
) -> None:
    """Make a candidate version of labels."""
