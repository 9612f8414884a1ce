"""The arguments of `stockade quarantine`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.cli.verbs import named, reaching, reason, verb
from gateway.tools.arguments import whole
from gateway.tools.tenant_arguments import incident

COUNT_MAX = 1_000
INDEX_MAX = 2**63 - 2


def add_verbs(quarantine: Any) -> None:
    """Add the verbs to `stockade quarantine`."""
    here = "gateway.tools.operations.quarantine"
    listed = verb(quarantine, "list", named(here, "list"), "show what screens found and nobody has looked at")
    show = verb(quarantine, "show", named(here, "show"), "show one, with what was sent where that was kept")
    release = verb(quarantine, "release", named(here, "release"), "say that it was honest")
    reject = verb(quarantine, "reject", named(here, "reject"), "say that it was an attack, or nothing for this model")
    for each in (listed, show, release, reject):
        reaching(each)
    listed.add_argument("--state", choices=("waiting", "released", "rejected", "all"), default="waiting")
    listed.add_argument("--tenant", default="", metavar="NAME")
    listed.add_argument("--model", default="", metavar="NAME")
    listed.add_argument("-n", "--count", type=whole(1, COUNT_MAX), default=50, metavar="N", help="default: 50")
    show.add_argument("entry", type=whole(0, INDEX_MAX), metavar="ENTRY", help="its number in the log")
    show.add_argument(
        "--payload", type=Path, metavar="FILE", help="write the request, a ModelInferRequest, to this file"
    )
    for each in (release, reject):
        each.add_argument("entries", type=whole(0, INDEX_MAX), nargs="+", metavar="ENTRY", help="numbers in the log")
        reason(each)
        incident(each)
