"""The arguments of `stockade feedback`. Importing this loads neither gRPC nor models: `stockade --help` stays fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.cli.verbs import named, reaching, reason, verb
from gateway.tools.arguments import whole

LISTED_MAX = 1_000
VERSION_MAX = 999_999_999
SEED_MAX = 2**32 - 1
STATES = ("accepted", "quarantined", "released", "rejected", "taken", "learned", "dropped")


def add_verbs(feedback: Any) -> None:
    """Add the verbs to `stockade feedback`."""
    here = "gateway.tools.operations.labels"
    key = verb(
        feedback, "key", named(here, "key"), "make a key that labels are signed with; prints what the policy needs"
    )
    key.add_argument("--out", type=Path, required=True, metavar="FILE", help="the private key, created with mode 0600")
    key.add_argument("--json", action="store_true", help="print JSON, never the private key")
    listed = verb(feedback, "list", named(here, "list"), "show labels, and what is held of them")
    show = verb(feedback, "show", named(here, "show"), "show everything about one label")
    release = verb(feedback, "release", named(here, "release"), "let labels out of quarantine: somebody looked at them")
    reject = verb(feedback, "reject", named(here, "reject"), "throw labels away")
    status = verb(
        feedback, "status", named(here, "status"), "show how many there are, and how versions agree with them"
    )
    train = verb(
        feedback, "train", named("gateway.tools.registry.label_training", "train"), "make a candidate version of labels"
    )
    for each in (listed, show, release, reject, status, train):
        reaching(each)
    for name, text in (("model", "of this model"), ("tenant", "of this tenant")):
        listed.add_argument(f"--{name}", default="", metavar="NAME", help=text)
    listed.add_argument("--state", default="", choices=STATES, help="in this state")
    listed.add_argument("--count", type=whole(1, LISTED_MAX), default=100, metavar="N", help="at most (default: 100)")
    listed.add_argument("--after", type=whole(0, 2**62), default=0, metavar="ID", help="go on behind this one")
    show.add_argument("id", type=whole(1, 2**62), metavar="ID", help="as `list` shows it")
    for each in (release, reject):
        each.add_argument("ids", type=whole(1, 2**62), nargs="+", metavar="ID", help="as `list` shows it; at most 50")
        reason(each)
    train.add_argument(
        "--model", required=True, metavar="NAME", help="kiosk is the one whose recipe goes on from labels"
    )
    train.add_argument("--version", type=whole(1, VERSION_MAX), required=True, metavar="N", help="the version to make")
    train.add_argument(
        "--signing-key",
        type=Path,
        required=True,
        metavar="FILE",
        help="ECDSA P-256 private key in PEM, for the candidate",
    )
    train.add_argument("--data", type=Path, metavar="DIR", help="Fashion-MNIST's idx files (default: Debian's package)")
    train.add_argument("--seed", type=whole(0, SEED_MAX), default=0, help="which trusted rows are learned beside (0)")
