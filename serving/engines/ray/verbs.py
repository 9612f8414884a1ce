"""What `stockade ray` needs Ray for, in a process of its own: `python -m serving.engines.ray.verbs deploy TIMEOUT_S |
status`.

JSON in (a `DeployPlan`, a `RaySettings`), JSON lines out: one an application, or `problem`, why there is none.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from serving.engines.ray.cluster import (
    Cluster,
    connect,
    delete_others,
    deploy_all,
    deployed_applications,
    leave,
    state_of,
)
from serving.engines.ray.frames import ApplicationStatus
from serving.engines.ray.settings import DeployPlan, RaySettings
from serving.errors import ReplicaRefused

STATUS_TIMEOUT_S = 20.0  # somebody waits, and would rather know late than not
DEPLOY_POLL_S = 0.5
EX_NO = 1
EX_LOST = 75
EX_UNUSABLE = 78


def run_deploy(plan: DeployPlan, timeout_s: float) -> int:
    """The verb `deploy`: deploy or update the applications, one line a change, until all run or one cannot."""
    connect(plan.address)
    deploy_all(plan.applications)
    names = {each.name for each in plan.applications}
    code = follow(lambda: {name: state_of(each) for name, each in deployed_applications().items()}, names, timeout_s)
    if code == 0 and plan.prune:  # only now: what they replace answers until they do
        for name in delete_others(plan.prune, names):
            say(application=name, state="DELETED", running=0, message="")
    return code


def follow(look: Callable[[], dict[str, ApplicationStatus]], names: set[str], timeout_s: float) -> int:
    """Print a line for each change until every one of `names` runs (0), or one cannot or the time is up (EX_NO)."""
    said: dict[str, ApplicationStatus] = {}
    give_up_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_s:
        seen = {name: each for name, each in look().items() if name in names}
        for name, each in seen.items():
            if said.get(name) != each:
                say(application=name, state=each.state, running=each.running, message=each.message)
        said = seen
        states = {each.state for each in seen.values()}
        if "DEPLOY_FAILED" in states:
            return EX_NO
        if len(seen) == len(names) and states == {"RUNNING"}:
            return 0
        time.sleep(DEPLOY_POLL_S)
    say(problem=f"not all run after {timeout_s:g} s")
    return EX_NO


def run_status(settings: RaySettings) -> int:
    """The verb `status`: one line for each application of the namespace, with its replicas and their bundle."""
    connect(settings.address)
    cluster = Cluster(settings, look_timeout_s=STATUS_TIMEOUT_S, digest_timeout_s=STATUS_TIMEOUT_S)
    for name, each in asyncio.run(cluster.look()).items():
        say(application=name, **msgspec.structs.asdict(each))
    return 0


def say(**facts: Any) -> None:
    """Print one JSON line."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main(arguments: list[str], data: bytes) -> int:
    """Run a verb on what came by standard input, and return its exit code."""
    try:
        match arguments:
            case ["deploy", timeout_s]:
                return run_deploy(msgspec.json.decode(data, type=DeployPlan), float(timeout_s))
            case ["status"]:
                return run_status(msgspec.json.decode(data, type=RaySettings))
    except ReplicaRefused as error:
        say(problem=str(error))
    except Exception as error:  # noqa: BLE001  Ray's errors have no root of their own
        say(problem=f"{type(error).__name__}: {error}")
        return EX_LOST
    return EX_UNUSABLE


if __name__ == "__main__":
    leave(main(sys.argv[1:], sys.stdin.buffer.read()))
