"""The verbs of `stockade ray`: what is deployed on the cluster, from the gateway's own configuration.

No Ray here: `python -m serving.engines.ray.verbs` does the work in a process of its own and says in JSON lines how it
goes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.config.document import FileRejected
from gateway.config.load import load_config
from gateway.models.ray import ray_settings
from gateway.tools.terminal import EX_NO, EX_UNUSABLE, err, fail, guarded, out, print_json
from serving.bundles.bundle import load_bundle
from serving.bundles.catalog import find_bundles
from serving.engines.ray.settings import Application, Deployable, DeployPlan, applications, serve_config
from serving.errors import ServingError

if TYPE_CHECKING:
    from gateway.config.config import Config

PROBLEM_CHARACTERS_MAX = 2000


class Unusable(Exception):
    """There is nothing to deploy; the message says why."""


saying = guarded((), (FileRejected, ServingError, Unusable))


@saying
def run_config(options: SimpleNamespace) -> int:
    """Print the Serve config file of everything that this gateway serves."""
    found = applications_of(configured(options))
    head = f"# Written by `stockade ray config {options.file}`; deploy it with `serve deploy`.\n"
    sys.stdout.write(head + yaml.safe_dump(serve_config(found), sort_keys=False))
    return 0


@saying
def run_deploy(options: SimpleNamespace) -> int:
    """Deploy or update the applications, and wait until they run."""
    config = configured(options)
    settings = ray_settings(config)
    plan = DeployPlan(settings.address, applications_of(config), settings.namespace if options.prune else "")
    lines = run_verb(["deploy", str(options.timeout)], msgspec.json.encode(plan))
    said = watch(lines, len(plan.applications)) if not options.json else [show(line) for line in lines]
    return verdict(said)


@saying
def run_status(options: SimpleNamespace) -> int:
    """Show the applications of this gateway, their replicas, and whether they hold the gateway's bundles."""
    config = configured(options)
    wanted = {each.name: each for each in applications_of(config)}
    said = list(run_verb(["status"], msgspec.json.encode(ray_settings(config))))
    if code := verdict(said):  # what was not seen is not shown as absent
        return code
    found = {line["application"]: line for line in said if "application" in line}
    rows = [row_of(name, application, found.get(name)) for name, application in wanted.items()]
    if options.json:
        print_json(rows)
    else:
        show_rows(rows)
    return 0 if all(row["ok"] for row in rows) else EX_NO


def show_rows(rows: list[dict[str, Any]]) -> None:
    """Print a table of applications."""
    table = Table("application", "state", "replicas", "bundle", "message", box=None, pad_edge=False)
    for row in rows:
        replicas = f"{row['running']} of {row['wanted']}"
        table.add_row(row["application"], row["state"], replicas, row["bundle"], escape(row["message"]))
    out.print(table)


def row_of(name: str, application: Application, found: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is to be said of one application."""
    if found is None:
        absent = {"state": "ABSENT", "running": 0, "wanted": 0, "message": "", "bundle": "-"}
        return {"application": name, **absent, "ok": False}
    digests = {each["digest"] for each in application.args["bundles"].values()}
    shared, held = bool(application.args["models_max"]), found["digest"]
    known = "the gateway's" if held in digests else "ANOTHER: deploy again" if held else "unknown: no replica says"
    bundle = "several" if shared else known
    good = found["state"] == "RUNNING" and found["running"] > 0 and (shared or held in digests)
    shown = {each: found[each] for each in ("state", "running", "wanted", "message")}
    return {"application": name, **shown, "bundle": bundle, "ok": good}


def configured(options: SimpleNamespace) -> Config:
    """Return the configuration. Raises Unusable when it names no cluster."""
    config = load_config(options.file)
    if config.engine.kind != "ray":
        raise Unusable(f"{options.file}: engine.kind is {config.engine.kind}; nothing of it runs on Ray")
    return config


def applications_of(config: Config) -> list[Application]:
    """Return the applications of everything in the bundle directory, each bundle verified."""
    deployables = []
    for directory in find_bundles(config.bundles.directory):
        bundle = load_bundle(directory, config.bundles.trusted_keys)
        deployables.append(Deployable(bundle.name, bundle.version, bundle.digest, str(directory.absolute())))
    if not deployables:
        raise Unusable(f"{config.bundles.directory} holds no bundle")
    return applications(ray_settings(config), deployables, [key.absolute() for key in config.bundles.trusted_keys])


def run_verb(arguments: list[str], data: bytes) -> Iterator[dict[str, Any]]:
    """Run a verb of `serving.engines.ray.verbs` and yield what it says; the last line has its exit code."""
    command = [sys.executable, "-P", "-m", "serving.engines.ray.verbs", *arguments]
    ended: dict[str, Any] = {}
    spoken = False
    with tempfile.TemporaryFile() as noise:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # it has ended already: below stands what it said
                process.stdin.write(data)
                process.stdin.close()
            for line in process.stdout:
                if line.startswith(b"{"):  # Ray prints too
                    spoken = True
                    yield json.loads(line)
        ended["exit"] = process.returncode
        if process.returncode and not spoken:  # Ray ended the process: its words are all there is
            noise.seek(0)
            ended["problem"] = noise.read()[-PROBLEM_CHARACTERS_MAX:].decode(errors="replace").strip()
    yield ended


def watch(lines: Iterator[dict[str, Any]], total: int) -> list[dict[str, Any]]:
    """Show a bar while the lines come in; returns them."""
    said: list[dict[str, Any]] = []
    states: dict[str, dict[str, Any]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("connecting", total=total)
        for line in lines:
            said.append(line)
            if "application" in line:
                states[line["application"]] = line
                done = sum(each["state"] == "RUNNING" for each in states.values())
                progress.update(task, description=f"{line['application']}: {line['state'].lower()}", completed=done)
    for name, state in states.items():
        out.print(f"{name}  {state['state']}  replicas {state['running']}  {escape(state['message'])}".rstrip())
    return said


def show(line: dict[str, Any]) -> dict[str, Any]:
    """Print a line for machines."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    return line


def verdict(said: list[dict[str, Any]]) -> int:
    """Return the exit code, and say what stood in the way."""
    for line in said:
        if "problem" in line:
            fail(line["problem"])
    code = int(said[-1]["exit"])
    return code if code in {0, EX_NO} else EX_UNUSABLE
