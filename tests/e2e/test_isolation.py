"""An operator keeps callers out of a running gateway: everywhere, at once, for good, and on the record."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from gateway.cli.main import main
from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until, verified
from tests.e2e.site import copy_site

CALLERS = 8  # connections, which spread over the workers
WHY = ["--reason", "asks like an attacker"]


def two_workers(made_site, place):
    site = copy_site(made_site, place / "site")
    site.change_config(lambda document: document.update(workers=2))
    return site


@pytest.fixture
def site(made_site, tmp_path):
    return two_workers(made_site, tmp_path)


@pytest.fixture(scope="module")
def shared(made_site, tmp_path_factory):
    """A gateway for tests that keep out whom they like and let everybody in again."""
    with serving(two_workers(made_site, tmp_path_factory.mktemp("shared"))) as running:
        yield running


def at_its_port(site, running):
    """The configuration with the port that the gateway was given."""
    file = site.directory / "here.yaml"
    document = json.loads(site.config.read_text())
    document["listen"]["admin"] = running.facts["admin"]
    file.write_text(json.dumps(document))
    return str(file)


def tenants(site, running, verb: str, *arguments: str, code: int = 0):
    """Run `stockade tenants` and return its exit code."""
    assert main(["tenants", verb, at_its_port(site, running), *arguments]) == code


def reasons(site, running, name: str) -> set[str]:
    """What a caller is told on connections of its own."""
    seen = set()
    for _ in range(CALLERS):
        with calling(site, running.facts["data"], site.bearer(name)) as caller:
            seen.add(caller.infer(infer_body(model="tiny" if name == "rival" else "kiosk")).reason)
    return seen


def actions(running, kind: str = "isolation") -> list[str]:
    return [entry["action"] for entry in running.entries() if entry["kind"] == kind]


def test_who_is_kept_out_stays_out_over_restarts_until_let_in(site, capsys):
    with serving(site) as running:
        assert reasons(site, running, "plenty") == {"OK"}
        tenants(site, running, "isolate", "--tenant", "plenty", *WHY, "--json")
        (made,) = json.loads(capsys.readouterr().out)["isolations"]
        assert (made["tenant"], made["principal"], made["until_unix_ns"]) == ("plenty", "", "0")
        assert reasons(site, running, "plenty") == {"ISOLATED"}
        assert reasons(site, running, "rival") == {"OK"}
        running.kill("worker-0")
        until(lambda: [event["event"] for event in running.events()].count("serving") == 3, "no successor")
        assert reasons(site, running, "plenty") == {"ISOLATED"}
        until(lambda: actions(running) == ["isolated"], "the log does not say so")
        (entry,) = [entry for entry in running.entries() if entry["kind"] == "isolation"]
        assert running.entry(entry["request"])["method"] == "/stockade.v1.Admin/Isolate"
    with serving(site) as running:
        assert reasons(site, running, "plenty") == {"ISOLATED"}
        until(lambda: actions(running) == ["isolated", "holds"], "the log does not say that it still holds")
        tenants(site, running, "release", "--tenant", "plenty", "--reason", "a test of ours")
        assert reasons(site, running, "plenty") == {"OK"}
        tenants(site, running, "release", "--tenant", "plenty", "--reason", "again", code=1)
        until(lambda: actions(running)[2:] == ["released"], "the log does not say so")
    assert verified(site).exit_code == 0


def test_one_that_runs_out_lets_its_principal_in_by_itself(shared):
    site, before = shared.site, actions(shared)
    tenants(site, shared, "isolate", "--principal", "single", *WHY, "--for", "3s")
    assert reasons(site, shared, "single") == {"ISOLATED"}
    assert reasons(site, shared, "plenty") == {"OK"}
    until(lambda: reasons(site, shared, "single") == {"OK"}, "it does not run out")
    until(lambda: actions(shared) == [*before, "isolated", "expired"], "the log does not say so")


def test_two_operators_who_act_at_once(shared):
    site, before = shared.site, actions(shared)
    file = at_its_port(site, shared)
    with ThreadPoolExecutor(8) as pool:
        isolate = ["tenants", "isolate", file, "--tenant", "plenty", *WHY]
        assert list(pool.map(main, [isolate] * 8)) == [0] * 8
        release = ["tenants", "release", file, "--tenant", "plenty", *WHY]
        codes = sorted(pool.map(main, [release] * 8))
    assert (codes[0], codes[-1]) == (0, 1)
    assert codes.count(0) == 1
    assert reasons(site, shared, "plenty") == {"OK"}
    until(lambda: actions(shared) == [*before, *["isolated"] * 8, "released"], "the log says something else")


def test_a_stream_in_flight_ends_and_what_is_shown_of_the_tenant_comes_from_the_log(site, capsys):
    with serving(site) as running:
        go, said = threading.Event(), []

        def bodies():
            yield infer_body()
            go.wait(60)
            yield infer_body()

        with calling(site, running.facts["data"], site.bearer("plenty")) as caller:
            stream = caller.stream(bodies())
            said.append(next(stream))
            tenants(site, running, "isolate", "--principal", "plenty", *WHY)
            go.set()
            with pytest.raises(grpc.RpcError) as ended:
                next(stream)
        assert ended.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "[ISOLATED]" in ended.value.details()
        until(lambda: any(entry.get("reason") == "ISOLATED" for entry in running.entries()), "not published")
        capsys.readouterr()
        tenants(site, running, "show", "plenty", "--json")
        shown = json.loads(capsys.readouterr().out)
        people = {one["name"]: one for one in shown["principals"]}
        assert (people["plenty"]["isolated"], people["rated"]["isolated"]) == (True, False)
        (kiosk,) = [one for one in shown["asked"] if one["model"] == "kiosk"]
        assert (kiosk["outcomes"], kiosk["rows"]) == ({"served": "1"}, "1")
        newest = running.entries()[int(shown["newest"][0])]
        assert newest["auth"]["principal"] == people["plenty"]["pseudonym"]
        tenants(site, running, "show", "plenty")
        assert "asked, in the entries" in capsys.readouterr().out


def test_what_is_not_there_is_refused_and_nothing_changes(shared, capsys):
    site, before = shared.site, actions(shared)
    tenants(site, shared, "isolate", "--tenant", "nobody", *WHY, code=2)
    tenants(site, shared, "isolate", *WHY, code=2)
    tenants(site, shared, "isolate", "--principal", "operator", *WHY, code=1)
    assert "nobody isolates himself" in capsys.readouterr().err
    tenants(site, shared, "list")
    assert "nobody is kept out" in capsys.readouterr().out
    assert actions(shared) == before
