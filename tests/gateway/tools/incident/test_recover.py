"""What takes a gateway back: whom to keep out, which version answers again, which policy may come back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.config.document import PolicyRejected
from gateway.policy.load import load_policy, parse_policy
from gateway.tools.incident.read import Story
from gateway.tools.incident.recover import model_steps, policy_of_before, restored, suspect_steps
from ops.incidents.timeline import Opened, Timeline

A, B = "a" * 32, "b" * 32


def story(*suspects: str, answered=None, policies=()) -> Story:
    incident = Opened("inc-1", 70, 5, "a", "", 10, 20, suspects)
    timeline = Timeline(incident.scope(), answered=answered or {}, policies=list(policies))
    return Story(None, timeline, incident)


def registry(serve: str = "3", digest: str = "f" * 64, revision: int = 9):
    models = {"kiosk": SimpleNamespace(serve=serve), "tiny": SimpleNamespace(serve="1")}
    return SimpleNamespace(policy=SimpleNamespace(models=models, digest=digest, revision=revision))


@pytest.mark.parametrize(
    ("kept_out", "wanted"),
    [
        ((), ["lab", f"store/{A}"]),
        ({("lab", "")}, [f"store/{A}"]),
        ({("store", "")}, ["lab"]),
        ({("store", A)}, ["lab"]),
        ({("store", B), ("lab", A)}, ["lab", f"store/{A}"]),
    ],
)
def test_whom_to_keep_out(kept_out, wanted):
    steps = list(suspect_steps(story("tenant:lab", f"principal:store/{A}", "model:kiosk"), kept_out))
    assert [step.about for step in steps] == wanted
    assert {step.act for step in steps} == {"isolate"}
    assert all("entry 70" in step.why for step in steps)


@pytest.mark.parametrize(
    ("suspects", "answered", "asked", "wanted"),
    [
        (["model:kiosk"], {"kiosk": {"1": 5, "2": 8}}, (), ["kiosk/2"]),
        (["model:kiosk"], {"kiosk": {"2": 5, "3": 8}}, (), []),
        (["model:kiosk/3"], {"kiosk": {"2": 5, "3": 8}}, (), ["kiosk/2"]),
        (["model:kiosk/2"], {"kiosk": {"1": 5}}, (), []),
        (["model:kiosk"], {}, (), []),
        (["model:other"], {"other": {"1": 5}}, (), []),
        (["tenant:kiosk"], {"kiosk": {"1": 5}}, (), []),
        ([], {"kiosk": {"1": 5}}, ["kiosk/1"], ["kiosk/1"]),
        (["model:kiosk"], {"kiosk": {"2": 8}}, ["kiosk/1"], ["kiosk/1"]),
        (["model:kiosk", "model:kiosk/3"], {"kiosk": {"2": 8}}, (), ["kiosk/2"]),
    ],
    ids=[
        "another",
        "the same",
        "the suspected one",
        "one not served",
        "none",
        "not in the policy",
        "no model",
        "as asked",
        "as asked and no other",
        "once",
    ],
)
def test_which_version_answers_again(suspects, answered, asked, wanted):
    steps = list(model_steps(story(*suspects, answered=answered), registry(), asked))
    assert [step.about for step in steps] == wanted


def test_which_policy_was_in_force_before():
    before = story(policies=[(1, 3, "c" * 64), (4, 9, "d" * 64), (6, 10, "e" * 64)])
    found = policy_of_before(before, registry(), {})
    assert (found.about, "entry 4" in found.why) == ("d" * 64, True)
    assert "is not kept here" in found.why
    kept = policy_of_before(before, registry(), {"d" * 64: Path("/kept/d.yaml"), "e" * 64: Path("/kept/e.yaml")})
    assert kept.why.endswith("--policy /kept/d.yaml")
    assert policy_of_before(story(policies=[(4, 9, "f" * 64)]), registry(), {}) is None
    assert policy_of_before(story(policies=[(4, 10, "d" * 64)]), registry(), {}) is None


def test_a_policy_comes_back_only_if_the_log_knows_it_from_before(made_site, tmp_path):
    public = made_site.directory / "keys/policy.pub"
    now = load_policy(made_site.policy, public)
    file = tmp_path / "before.yaml"
    text = "# of the spring\n" + made_site.policy.read_text()
    file.write_text(text)
    hosts = registry(revision=now.revision + 40)
    new, policy, step = restored(story(policies=[(4, 9, now.digest)]), hosts, file)
    assert policy.revision == now.revision + 41
    assert parse_policy(new.encode(), file) == policy
    assert policy.models == now.models
    assert new.startswith("# of the spring\n")
    assert "entry 4" in step.why
    for policies in ([], [(4, 9, "d" * 64)], [(4, 10, now.digest)]):
        with pytest.raises(PolicyRejected, match="the log says of no policy"):
            restored(story(policies=policies), hosts, file)
    file.write_text("version: 1")
    with pytest.raises(PolicyRejected):
        restored(story(policies=[(4, 9, now.digest)]), hosts, file)
