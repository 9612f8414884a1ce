"""A real gateway under real traffic, watched by a real Prometheus with our rules: what dashboards are tried on.

The traffic is a small day: shops and a batch job, of three classes; a client that sends wrong shapes; a tenant beyond
its limits; somebody who guesses keys; somebody who tries noise and disturbed images on the model, and searches around
one of them. Another model was answering before, and labels of its answers have come.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gateway.cli.main import main
from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.request.labels.rows import Draft
from gateway.request.labels.store import FILE, FeedbackStore
from gateway.tools.samples import bundles_directory
from tests.e2e.caller import Caller, calling, images, infer_body
from tests.e2e.running import Running, serving, until
from tests.e2e.site import UNLIMITED, Site, make_site
from tests.gateway.request.labels.labelled import MODEL as LABELLED
from tests.gateway.request.labels.labelled import labelled_sealed
from tests.gateway.rig import image, tiny_body
from tests.serving.tiny import write

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "ops/prometheus/rules"
JOB = "stockade"
WATCHED = "3"  # the version of the kiosk that knows what innocent accounts ask


@dataclass(slots=True)
class Stage:
    """Where the numbers are, and when: what is asked is asked of the moment at which the traffic ended.

    `scrape_s` is also the step of the rules: for their own nobody wants to wait.
    """

    running: Running
    prometheus: str
    scrape_s: int
    began_s: float = field(default_factory=time.time)
    ended_s: float = math.nan

    def play(self, seconds: float) -> int:
        """Let traffic come, and Prometheus see the last of it. Returns how many calls ended."""
        calls = Traffic(self, seconds).run()
        self.ended_s = time.time()
        until(lambda: self.values("timestamp(up)", at_s=time.time())[0] > self.ended_s, "Prometheus has stopped")
        return calls

    @property
    def rate_interval(self) -> str:
        """What stands for Grafana's $__rate_interval: four scrapes."""
        return f"{max(4 * self.scrape_s, 10)}s"

    def filled(self, expr: str) -> str:
        """A panel's query with its variables replaced."""
        told = {"$__rate_interval": self.rate_interval, "$__range": f"{round(self.ended_s - self.began_s)}s"}
        for name, value in (told | {"$job": JOB, "$model": ".+"}).items():
            expr = expr.replace(name, value)
        return expr

    def ask(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer of Prometheus's HTTP interface."""
        url = f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def values(self, expr: str, *, at_s: float | None = None) -> list[float]:
        """The finite numbers that a query gave at the end of the traffic, or at another time."""
        time_s = self.ended_s if at_s is None else at_s
        found = [float(one["value"][1]) for one in self.ask("query", query=expr, time=time_s)["result"]]
        return [value for value in found if math.isfinite(value)]


@contextmanager
def staged(directory: Path, *, scrape_s: int = 1) -> Iterator[Stage]:
    """The gateway and Prometheus, for as long as the block runs."""
    site = make_site(directory / "site", policy=callers)
    replica = {"url": (directory / "replica").as_uri(), "every": "1s"}
    site.change_config(lambda config: config["audit"].update(replication=replica, epochs={}))
    shutil.rmtree(site.directory / "bundles/kiosk")
    shutil.copytree(bundles_directory() / "kiosk" / WATCHED, site.directory / "bundles/kiosk" / WATCHED)
    write(labelled_sealed(), site.directory / "bundles" / LABELLED / "1")
    come_later(site)
    assert main(["audit", "retain", str(site.config)]) == 0  # what a daily timer does
    with serving(site) as running, watching(directory, [running.facts["metrics"]], scrape_s) as address:
        yield Stage(running, address, scrape_s)


def callers(policy: dict[str, Any]) -> None:
    """A third class, and those who misbehave."""
    policy["classes"]["bulk"] = {"lane": 2}
    policy["limits"]["tight"] = UNLIMITED | {"requests": "4/s", "request_burst": 8, "in_flight": 64}
    policy["tenants"]["laboratory"] = {"limits": "unlimited", "class": "bulk"}
    for name in ("archivist", "hasty", "single"):
        policy["principals"][name]["limits"] = "unlimited"
    policy["principals"]["single"]["tenant"] = "laboratory"
    policy["principals"]["costly"]["tenant"] = "forgetful"
    policy["principals"]["rated"] |= {"tenant": "laboratory", "limits": "tight"}
    policy["models"]["kiosk"] |= {
        "serve": WATCHED,
        "watch": {"mode": "shadow", "steps": [{"alpha": 0.0001, "answer": "neighbour"}]},
    }
    policy["models"][LABELLED] = {"serve": "1", "feedback": {"trusted": ["single"]}}
    policy["principals"]["single"]["feedback_keys"] = ["ab" * 32]


def come_later(site: Site) -> None:
    """Put trusted labels into the gateway's file, as if they had come: of 300, nine in ten as they were answered."""
    now_ns = time.time_ns()
    drafts = [
        Draft(
            request=number.to_bytes(16, "big"),
            row=0,
            tenant="laboratory",
            principal="single",
            model=LABELLED,
            version="1",
            label=0,
            name="a",
            answered="a" if number % 10 else "b",
            latent=b"",
            p_micro=500_000,
            outcome_ns=now_ns,
            received_ns=now_ns,
            key="ab" * 8,
            trusted=True,
            state="accepted",
            reason="",
            confidence_micro=900_000,
        )
        for number in range(300)
    ]
    store = FeedbackStore(place_of(load_config(site.config)).memory.with_name(FILE))
    with store.transaction() as step:
        ids = [step.draft(draft) for draft in drafts]
    store.confirm(ids)


@contextmanager
def watching(directory: Path, targets: Sequence[str], scrape_s: int) -> Iterator[str]:
    """A Prometheus that scrapes these addresses and evaluates our rules at every scrape. Yields where it answers."""
    place = directory / "prometheus"
    (place / "rules").mkdir(parents=True)
    for path in RULES.glob("*.yml"):
        text = re.sub(r"^    interval: .*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
        (place / "rules" / path.name).write_text(text, "utf-8")
    every = f"{scrape_s}s"
    settings = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": ["rules/*.yml"],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [*targets]}]}],
    }
    (place / "prometheus.yml").write_text(json.dumps(settings))
    program = shutil.which("prometheus")
    assert program, "prometheus is not installed (Debian: prometheus)"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = (f"--config.file={place}/prometheus.yml", f"--storage.tsdb.path={place}/data")
    command = [program, *options, f"--web.listen-address=127.0.0.1:{port}", "--web.cors.origin=.*"]
    with (place / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: process.poll() is None and answers(f"{address}/-/ready"), (place / "log").read_text())
            yield address
        finally:
            process.terminate()
            process.wait(20)


def answers(url: str) -> bool:
    """Whether an address says that all is well."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def disturbed(rows: np.ndarray[Any, Any], strength: float, noise: np.random.Generator) -> np.ndarray[Any, Any]:
    """Images with something added that a screen should find strange."""
    return np.clip(rows + noise.normal(0, strength, rows.shape), 0, 1).astype(np.float32)


def shops(t: float) -> float:
    """Calls a second at `t`, which goes from 0 to 1."""
    return 24 + 14 * math.sin(2.5 * math.pi * t)


def burst(t: float) -> float:
    return 14.0 if 0.52 < t < 0.68 else 1.0


def guessing(t: float) -> float:
    return 6.0 if 0.25 < t < 0.36 else 0.3


@dataclass(slots=True)
class Traffic:
    """Calls at rates that change over `seconds`, from threads of its own, until that time is over."""

    stage: Stage
    seconds: float
    ended: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)

    def run(self) -> int:
        """Let it happen. Returns how many calls ended."""
        with ExitStack() as stack:
            running = self.stage.running
            address = running.facts["data"]
            random_rows = np.random.default_rng(7)

            def caller(name: str) -> Caller:
                return stack.enter_context(calling(running.site, address, running.site.bearer(name)))

            def rows(most: int) -> np.ndarray[Any, Any]:
                first = random.randrange(900)
                return images()[first : first + random.randint(1, most)]

            wrong = (("x-api-key", "kiosk-7.wrong"),)
            kiosk, plenty, lab, rated = map(caller, ("kiosk-7", "plenty", "single", "rated"))
            rival, hasty, batch, costly = map(caller, ("rival", "hasty", "batch-1", "costly"))
            plan: list[tuple[Callable[[float], float], Callable[[], Any]]] = [
                (shops, lambda: kiosk.infer(infer_body(rows(2)))),
                (lambda t: 0.5 * shops(t), lambda: plenty.infer(infer_body(rows(8)))),
                (lambda t: 3 + 4 * t, lambda: lab.infer(infer_body(rows(48)))),
                (lambda _: 6, lambda: rated.infer(infer_body(rows(4)))),
                (lambda t: 4 + 4 * t, lambda: batch.infer(infer_body(rows(4)))),
                (lambda _: 0.5, lambda: costly.infer(infer_body(rows(2)))),
                (lambda _: 4, lambda: rival.infer(tiny_body(image(random.random(), 2)))),
                (lambda _: 0.8, lambda: plenty.infer(infer_body(np.zeros((1, 28, 27))))),
                (lambda _: 0.4, lambda: plenty.infer(infer_body(model="secret"))),
                (guessing, lambda: plenty.infer(infer_body(), metadata=wrong)),
                (lambda _: 0.4, lambda: plenty.infer(infer_body(), metadata=())),
                (burst, lambda: hasty.infer(infer_body(disturbed(rows(2), 0.25, random_rows)))),
                (lambda t: 0.6 * burst(t), lambda: hasty.infer(infer_body(disturbed(rows(1), 0.08, random_rows)))),
                (lambda _: 3, lambda: hasty.infer(infer_body(disturbed(images()[:1], 0.03, random_rows)))),
                (lambda _: 0.3, lambda: plenty.infer(infer_body(rows(4)), timeout=0.0005)),
            ]
            for rate, call in plan:
                thread = threading.Thread(target=self._keep_calling, args=(rate, call))
                thread.start()
                self._threads.append(thread)
            for thread in self._threads:
                thread.join()
        return self.ended

    def _keep_calling(self, rate: Callable[[float], float], call: Callable[[], Any]) -> None:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < self.seconds:
            call()
            self.ended += 1
            pause = random.expovariate(max(rate(passed / self.seconds), 0.05))
            time.sleep(min(pause, max(began + self.seconds - time.monotonic(), 0)))


__all__ = ["ROOT", "Site", "Stage", "Traffic", "staged"]
