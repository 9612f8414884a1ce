"""`stockade client` without a gateway: what it needs, what it says when nobody is there, and how it shows answers."""

from __future__ import annotations

import io
import json
import os
import socket
from datetime import UTC, datetime
from typing import NamedTuple

import grpc
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from defenses.extraction.proof_of_work import check, issue
from gateway.cli.main import main
from gateway.tools.client import call_proving, class_names, show, with_bar
from gateway.tools.init.init import init_directory
from gateway.tools.samples import bundles_directory

REQUEST = "0123456789abcdef" * 2
IMAGES = np.zeros((3, 28, 28), np.uint8)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    target = tmp_path_factory.mktemp("client") / "gateway"
    init_directory(target, now=datetime.now(UTC), random_bytes=os.urandom)
    return target


def answered(number, given=0, label=0, names=("boot", "bag")):
    told = {"number": number, "label": label, "status": "OK", "class": given, "name": names[given], "score": 0.5}
    return told | {"audit_index": "7", "request_id": REQUEST, "ms": float(number)}


def refused(number):
    details = f"[RATE_LIMITED] Too many requests. Wait a moment, then ask again. (request_id={REQUEST})"
    told = {"number": number, "label": 0, "status": "RESOURCE_EXHAUSTED", "details": details}
    return told | {"request_id": REQUEST, "ms": float(number)}


def shown(*answers, names=("boot", "bag"), width=80):
    page = io.StringIO()
    show(list(answers), list(names), Console(file=page, width=width, highlight=False))
    return page.getvalue()


@pytest.mark.parametrize("count", ["-1", "0", "1000001", "many"])
def test_how_many_no_client_sends(directory, capsys, count):
    with pytest.raises(SystemExit) as stopped:
        main(["client", str(directory), f"--count={count}"])
    assert stopped.value.code == 2
    assert "--count: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"pixels": IMAGES}, "has no images"),
        ({"images": IMAGES[:0]}, "has no images"),
        ({"images": IMAGES[0]}, "has no images"),
        ({"images": IMAGES, "labels": np.zeros(2, np.int64)}, "is not one label an image"),
        ({"images": IMAGES, "labels": np.zeros((3, 1), np.int64)}, "is not one label an image"),
        (None, "is no safetensors file"),
    ],
)
def test_images_that_are_none(directory, tmp_path, capsys, tensors, problem):
    file = tmp_path / "images.safetensors"
    file.write_bytes(b"nonsense")
    if tensors is not None:
        save_file(tensors, file)
    assert main(["client", str(directory), "--images", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{file}: " in said
    assert problem in said


class Trailer(NamedTuple):
    key: str
    value: str


class Wanted(grpc.RpcError):
    """A refusal that asks for a proof of work, or another."""

    def __init__(self, challenge=None):
        self.challenge = challenge

    def trailing_metadata(self):
        return () if self.challenge is None else (Trailer("x-stockade-challenge", self.challenge),)


class Asking:
    """A gateway's method that wants so many proofs for one request."""

    def __init__(self, proofs, challenge=None):
        self.proofs, self.seen = proofs, []
        self.challenge = challenge or (lambda number: issue(bytes(16), "ann", 8, 0, bytes([number]) * 16))

    def with_call(self, body, *, metadata, timeout):
        self.seen.append(dict(metadata))
        if len(self.seen) <= self.proofs:
            raise Wanted(self.challenge(len(self.seen)))
        return body, "done"


def test_the_client_does_the_work_that_is_wanted():
    gateway = Asking(proofs=2)
    assert call_proving(gateway, b"body", "key") == (b"body", "done")
    assert [seen.get("x-stockade-proof", "")[:1] for seen in gateway.seen] == ["", "1", "1"]
    for number, seen in enumerate(gateway.seen[1:], 1):
        check(bytes(16), "ann", seen["x-stockade-proof"], 8, 0)
        assert seen["authorization"] == "Bearer key"
        assert seen["x-stockade-proof"].startswith(gateway.challenge(number))


@pytest.mark.parametrize(
    ("challenge", "calls"),
    [(None, 4), (lambda number: None, 1), (lambda number: "nonsense", 1)],
)
def test_the_client_works_no_more_than_a_few_times_and_for_no_nonsense(challenge, calls):
    gateway = Asking(proofs=99, challenge=challenge)
    with pytest.raises(Wanted):
        call_proving(gateway, b"body", "key")
    assert len(gateway.seen) == calls


def nobody():
    """An address where nobody listens, for as long as the socket is held."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    return held, f"127.0.0.1:{held.getsockname()[1]}"


def test_when_nobody_listens_it_says_so_once(directory, capsys):
    held, address = nobody()
    with held:
        assert main(["client", str(directory), "--address", address]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count(address) <= 2, "gRPC names it once more"
    assert said.err.startswith(f"stockade: {address}: ")
    assert f"is `stockade serve {directory / 'stockade.yaml'}` running?" in said.err


def test_when_nobody_listens_machines_get_one_line(directory, capsys):
    held, address = nobody()
    with held:
        assert main(["client", str(directory), "--address", address, "--json"]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert (json.loads(line)["status"], json.loads(line)["request_id"]) == ("UNAVAILABLE", None)


def test_a_refusal_can_be_copied_and_the_end_says_what_it_comes_to():
    said = shown(answered(0), answered(1), refused(8)).splitlines()
    assert f"image 8: {refused(8)['details']}" in said
    assert said[-1] == "3 requests: 2 ok, 1 refused, p50 1.0 ms"


def test_a_wrong_answer_names_the_right_one():
    assert "boot (is bag)" in shown(answered(0, given=0, label=1))
    assert "(is" not in shown(answered(0, given=1, label=1))
    assert "boot (is 1)" in shown(answered(0, given=0, label=1), names=())
    assert "boot (is -1)" in shown(answered(0, given=0, label=-1))


@pytest.mark.parametrize(("count", "more"), [(10, None), (11, "... and 1 more; --json lists them")])
def test_many_refusals_are_not_all_written_out(count, more):
    said = shown(*map(refused, range(count)))
    assert said.count(REQUEST) == 10
    assert (more is None) or more in said


def test_classes_have_the_names_of_the_bundle(tmp_path):
    assert class_names(bundles_directory())[9] == "Ankle boot"
    (tmp_path / "kiosk/2").mkdir(parents=True)
    (tmp_path / "kiosk/2/manifest.json").write_text("[]")
    assert class_names(tmp_path) == []


@pytest.mark.parametrize(("seconds", "bar"), [(2.0, False), (2.1, True)])
def test_a_progress_bar_when_it_takes_a_while(seconds, bar):
    page, times = io.StringIO(), iter([0.0, seconds, seconds, seconds])
    console = Console(file=page, force_terminal=True, width=80)
    answers = [answered(number) for number in range(3)]
    assert list(with_bar(answers, 3, console, clock=lambda: next(times))) == answers
    assert ("asking" in page.getvalue()) is bar


def test_no_progress_bar_in_a_file():
    page, times = io.StringIO(), iter([0.0, 9.0])
    assert list(with_bar([answered(0)], 1, Console(file=page), clock=lambda: next(times))) == [answered(0)]
    assert page.getvalue() == ""
