"""Canaries of a whole gateway under load: promoted when good, taken back when not, in the log, and over a restart."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until, verified
from tests.e2e.site import copy_site
from tests.e2e.versions import WAYS, write_versions

PEOPLE = [f"person-{number}" for number in range(8)]
LIMITS = {"error_rate_max": 0.05, "p99_ratio_max": 1.0, "disagreement_max": 0.2}
CANARY = {"version": "2", "steps": [0.5, 1], "step_every": "1s", "min_requests": 20, "compare_rate": 1.0}


def only(way: str) -> dict[str, float]:
    """The one limit that shall end this canary; the good one is held to all of them."""
    named = {"broken": "error_rate_max", "slow": "p99_ratio_max", "odd": "disagreement_max"}
    return {named[way]: LIMITS[named[way]]} if way in named else LIMITS | {"p99_ratio_max": 1000.0}


pytestmark = pytest.mark.slow


@pytest.fixture
def site(made_site, tmp_path):
    copied = copy_site(made_site, tmp_path / "site")
    entries = {name: copied.new_key(name) for name in PEOPLE}

    def change(policy) -> None:
        policy["roles"]["predictor"][0]["models"] += WAYS
        for name, entry in entries.items():
            policy["principals"][name] = policy["principals"]["plenty"] | {"api_keys": [entry]}
        for way in WAYS:
            release = {"canary": CANARY | {"abort_on": only(way)}}
            if way == "slow":  # nothing but its answers takes time
                release["canary"] |= {"step_every": "3s", "min_requests": 6, "compare_rate": 0.01}
            policy["models"][way] = {"serve": "1", "release": release}

    for way in WAYS:
        write_versions(copied.directory / "bundles", way, way)
    copied.change_policy(change)
    # A full batch is timed at the start, and a slow model's takes its time.
    copied.change_config(lambda config: config["engine"].update(batch_rows_max=4))
    copied.change_config(lambda config: config.update(workers=2))
    return copied


def happened(running) -> dict[str, list[str]]:
    """What the log says has happened to each canary."""
    found: dict[str, list[str]] = {way: [] for way in WAYS}
    for entry in running.entries():
        if entry["kind"] == "release":
            found[entry["name"]].append(entry["action"])
    return found


def ask_until_all_is_over(running, callers) -> None:
    """Let everybody ask every model, over and over, whose canary is on its way."""
    rng = np.random.default_rng(0)
    for _ in range(2_000):
        actions = happened(running)
        going = [way for way in WAYS if not {"promoted", "rolled-back"} & set(actions[way])]
        if not going:
            return
        for way, caller in itertools.product(going, callers):
            grey = rng.random((1, 1, 1), np.float32) * np.ones((1, 28, 28), np.float32)
            caller.infer(infer_body(grey, model=way))
    raise AssertionError(happened(running))


def versions_of(callers, way) -> set[str]:
    """Which versions answer, of a model that answers white images in any case."""
    return {caller.infer(infer_body(np.ones((1, 28, 28)), model=way)).message.model_version for caller in callers}


def test_a_canary_is_promoted_or_taken_back_and_stays_so(site):
    with serving(site) as running, everybody(site, running) as callers:
        assert versions_of(callers, "good") == {"1", "2"}
        ask_until_all_is_over(running, callers)
        steps = happened(running)
        slow = steps.pop("slow")  # on a busy machine it may take two steps to tell
        assert (slow[0], slow[-1]) == ("started", "rolled-back")
        assert steps == {
            "good": ["started", "advanced", "promoted"],
            "broken": ["started", "rolled-back"],
            "odd": ["started", "rolled-back"],
        }
        why = {entry["name"]: entry for entry in running.entries() if entry.get("action") == "rolled-back"}
        assert why["broken"]["reason"].startswith("error rate ")
        assert why["odd"]["reason"].startswith("disagreement ")
        assert "times the served version's, above 1" in why["slow"]["reason"]
        assert all(entry["weights_micro"] == {"1": 1_000_000, "2": 0} for entry in why.values())
        assert why["odd"]["counts"]["compared"] > 0
        stand_still(running, callers)
        told = {release["model"]: release for release in compared(running)}
    assert {way: told[way]["phase"] for way in WAYS} == {
        "good": "promoted",
        "broken": "rolled-back",
        "slow": "rolled-back",
        "odd": "rolled-back",
    }
    shares = {each["version"]: each["weight"] for each in told["good"]["versions"]}
    assert shares == {"1": 0.0, "2": 1.0}
    assert int(told["odd"]["versions"][1]["disagreements"]) > 0
    with serving(site) as running, everybody(site, running) as callers:
        stand_still(running, callers)
        until(lambda: happened(running)["broken"][2:] == ["ended", "set"], "nothing says where it stood and stands")
        site.change_policy(lambda policy: policy["models"]["odd"].update(release={"weights": {"2": 1.0}}))
        until(lambda: happened(running)["odd"][4:] == ["ended", "set"], "the weights are not in the log")
        assert versions_of(callers, "odd") == {"2"}
    assert verified(site).exit_code == 0


def compared(running) -> list[dict]:
    """What `stockade models compare` prints for machines. It asks the file which port the admin service has."""
    kept = running.site.config.read_text()
    running.site.change_config(lambda document: document["listen"].update(admin=running.facts["admin"]))
    arguments = ["models", "compare", str(running.site.config), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    running.site.config.write_text(kept)
    assert done.returncode == 0, done.stderr
    found: list[dict] = json.loads(done.stdout)
    return found


def stand_still(running, callers) -> None:
    """Where everything is over, the good version answers everybody and the others nobody."""
    for way in WAYS:
        version = "2" if way == "good" else "1"
        until(lambda: versions_of(callers, way) == {version}, f"{way} is answered by another version")  # noqa: B023  called at once
        assert running.counted("stockade_release_weight", model=way, version=version) == 1


class everybody:  # noqa: N801  used as a function
    """All the callers, each on a connection of its own."""

    def __init__(self, site, running) -> None:
        self.managers = [calling(site, running.facts["data"], site.bearer(name)) for name in PEOPLE]

    def __enter__(self):
        return [manager.__enter__() for manager in self.managers]

    def __exit__(self, *problem) -> None:
        for manager in self.managers:
            manager.__exit__(*problem)
