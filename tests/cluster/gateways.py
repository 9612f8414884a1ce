"""A gateway whose models run on a cluster, and callers that ask it without a pause."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.ray_nodes import Cluster
from tests.cluster.standing import REPLICA_CPUS
from tests.e2e.caller import Reply, calling, infer_body
from tests.e2e.running import Running, entries_of, serving, until, verified
from tests.e2e.site import Site, copy_site

CALLERS = 8
DEPLOY_S = 300.0


def ray_site(made_site: Site, path: Path, cluster: Cluster, *, fallback: str = "none", **ray: Any) -> Site:
    """A copy of a site whose models run on the cluster."""
    site = copy_site(made_site, path)
    replicas = {"cpus": REPLICA_CPUS, **ray.pop("replicas", {})}

    def change(document: dict[str, Any]) -> None:
        document["engine"] = {
            "kind": "ray",
            "fallback": fallback,
            "ray": {"address": cluster.address, "replicas": replicas, **ray},
        }

    site.change_config(change)
    return site


def stockade(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        capture_output=True,
        text=True,
        timeout=DEPLOY_S + 60,
        check=False,
    )


def deploy(site: Site, *more: str) -> None:
    done = stockade("ray", "deploy", str(site.config), f"--timeout={DEPLOY_S:g}", *more)
    assert done.returncode == 0, done.stdout + done.stderr


def replicas_that_run(site: Site, application: str) -> int:
    """How many replicas of an application answer, as Serve says: one that still starts is none."""
    shown = stockade("ray", "status", str(site.config), "--json")
    assert shown.returncode in {0, 1}, shown.stderr
    rows = json.loads(shown.stdout)
    return next(row["running"] for row in rows if row["application"] == application)


@dataclass(slots=True)
class Load:
    """Callers that ask until they are told to stop, each for one image at a time."""

    replies: list[Reply] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def reasons(self) -> Counter[str]:
        return Counter(reply.reason for reply in self.replies)

    def more(self, count: int) -> None:
        """Wait until that many further calls have ended."""
        goal = len(self.replies) + count
        until(lambda: len(self.replies) >= goal, f"no {count} further replies", DEPLOY_S)


@contextmanager
def asking(
    running: Running,
    *,
    bodies: Sequence[bytes] = (),
    callers: int = CALLERS,
    who: str = "plenty",
    patient: bool = False,
) -> Iterator[Load]:
    """Keep `callers` calls in flight while the block runs. The patient wait for as long as a refusal asks them to."""
    load = Load()
    asked = list(bodies) or [infer_body()]

    def ask(number: int) -> None:
        site = running.site
        with calling(site, running.facts["data"], site.bearer(who)) as caller:
            while not load.over.is_set():
                reply = caller.infer(asked[number % len(asked)])
                load.replies.append(reply)
                if patient:
                    load.over.wait(int(reply.trailers.get("grpc-retry-pushback-ms", 0)) / 1000)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.over.set()
        for thread in threads:
            thread.join(60)


@contextmanager
def ray_gateway(site: Site) -> Iterator[Running]:
    """Serve a site; afterwards its log is whole, and holds exactly one record for every reply that was seen."""
    with serving(site) as running:
        yield running
    report = verified(site)
    assert (report.exit_code, report.findings) == (0, [])


def recorded_once(site: Site, load: Load) -> None:
    """Every call that was answered or refused stands in the log exactly once."""
    wanted = [reply.request_id for reply in load.replies]
    assert len(set(wanted)) == len(wanted)

    def recorded() -> Counter[str]:
        return Counter(entry["id"] for entry in entries_of(site) if entry.get("id"))

    until(lambda: set(wanted) <= recorded().keys(), "not all published")
    ids = recorded()
    assert {each: ids[each] for each in wanted if ids[each] != 1} == {}
