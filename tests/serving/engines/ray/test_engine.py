"""The engine and its link, over a bridge that is a real process without Ray: it lives, dies, lies and comes back."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from serving.engines.ray import link as ray_link
from serving.engines.ray.engine import RayEngine
from serving.engines.ray.settings import RaySettings
from serving.errors import BackendFailed, BackendTimedOut, BackendUnavailable, DeploymentStale, EngineClosed
from tests.serving.tiny import tiny_bundle

IMAGES = np.random.default_rng(0).random((3, 28, 28), dtype=np.float32)
APPLICATION = "stockade-tiny-1"

# What the process does with a request is in the first pixel of its first image.
DONE, FAILED, LOST, LATE, STALE, SILENT, DIE, FAULT, NOISE, REFUSED = range(10)
BRIDGE = (
    """
import os, socket, sys, time
import msgspec
import numpy as np
from serving.engines.ray.frames import *
from tests.serving.fake_engine import FakeEngine
from tests.serving.tiny import tiny_bundle
sock = socket.socket(fileno=int(sys.argv[1]))
stream = sock.makefile("rb")
mode, digest = sys.argv[2:4]
engine = FakeEngine(tiny_bundle())
if mode == "mute":
    stream.read()
running = 0 if mode == "nothing" else 1
for known in ("", digest) if mode == "late" else (digest,):
    held = {{"{application}": ApplicationStatus("RUNNING", running, "", known, wanted=4)}}
    sock.sendall(pack_frame(Kind.STATUS, 0, msgspec.json.encode(Status(applications=held))))
    time.sleep(0 if known else 0.5)  # a replica that is slow to say what it holds
while head := stream.read(HEADER_BYTES):
    header = parse_header(head)
    stream.read(header.target_bytes)
    meant, inputs = parse_request(stream.read(header.body_bytes))
    do = int(inputs["image"].flat[0]) if "image" in inputs else 1
    ours = bytes.fromhex(digest)
    reply = [
        lambda: (Kind.ANSWER, pack_reply(ours, Verdict.DONE, pack_arrays(engine.infer(inputs)))),
        lambda: (Kind.ANSWER, pack_reply(ours, Verdict.FAILED, b"no")),
        lambda: (Kind.LOST, b"died twice"),
        lambda: (Kind.LATE, b""),
        lambda: (Kind.ANSWER, pack_reply(bytes(32), Verdict.STALE)),
        lambda: None,
        lambda: os._exit(1),
        lambda: (Kind.FAULT, b"raised"),
        lambda: (Kind.ANSWER, b"noise"),
        lambda: (Kind.ANSWER, pack_reply(bytes(32), Verdict.REFUSED, b"not signed")),
    ][do]()
    if reply is not None:
        sock.sendall(pack_frame(reply[0], header.call, reply[1]))
""".replace("{{", "{")
    .replace("}}", "}")
    .replace("{application}", APPLICATION)
)


def asking_for(what, rows=2):
    """Images that make the bridge do this; the other pixels are small, so that the mean is the row's own."""
    images = IMAGES[:rows].copy()
    images[0, 0, 0] = what
    return {"image": images}


@pytest.fixture
def bridge(monkeypatch):
    """Start `BRIDGE` instead of the real one; `bridge.mode` and `bridge.digest` say how."""

    class Told:
        mode = "good"
        digest = tiny_bundle().digest

    def popen(command, **options):
        assert command[1:4] == ["-P", "-m", "serving.engines.ray.bridge"]
        return real([sys.executable, "-c", BRIDGE, command[4], Told.mode, Told.digest], **options)

    real = ray_link.subprocess.Popen
    monkeypatch.setattr(ray_link.subprocess, "Popen", popen)
    return Told


@pytest.fixture
def engine(bridge):
    made = RayEngine(tiny_bundle(), RaySettings(address="127.0.0.1:1", call_timeout_ms=2000))
    yield made
    made.close()


def test_an_answer_comes_back(engine):
    assert engine.ready()
    outputs = engine.infer({"image": IMAGES * 0.1})
    assert outputs["energy"].shape == (3,)


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        (FAILED, BackendFailed, "no"),
        (FAULT, BackendFailed, "raised"),
        (NOISE, BackendFailed, "reply"),
        (LOST, BackendUnavailable, "died twice"),
        (REFUSED, BackendUnavailable, "not signed"),
        (LATE, BackendTimedOut, "2000 ms"),
        (STALE, DeploymentStale, f"{tiny_bundle().digest} is meant and {'0' * 64} is there"),
    ],
)
def test_each_ending_has_its_error_and_the_next_call_works(engine, what, error, text):
    with pytest.raises(error, match=text) as raised:
        engine.infer(asking_for(what))
    assert type(raised.value) is error
    assert len(engine.infer(asking_for(DONE))["energy"]) == 2


def test_a_reply_that_is_not_what_the_manifest_declares_is_a_failure(engine, monkeypatch):
    real = ray_link.Link.ask

    def lie(link, model, target, body):
        kind, reply = real(link, model, target, body)
        from serving.engines.ray.frames import Verdict, pack_arrays, pack_reply, parse_reply, unpack_arrays

        digest, _, rest = parse_reply(reply)
        arrays = unpack_arrays(rest)
        arrays["energy"] = arrays["energy"][:1]
        return kind, pack_reply(digest, Verdict.DONE, pack_arrays(arrays))

    monkeypatch.setattr(ray_link.Link, "ask", lie)
    with pytest.raises(BackendFailed, match="energy is not what the manifest declares"):
        engine.infer(asking_for(DONE))


def test_a_silent_bridge_costs_the_calls_time_and_no_more(engine, monkeypatch):
    monkeypatch.setattr(ray_link, "GRACE_S", -1.9)
    with pytest.raises(BackendTimedOut):
        engine.infer(asking_for(SILENT))


def test_a_bridge_that_dies_fails_what_it_had_and_is_started_again(engine):
    link = engine._link
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(engine.infer, asking_for(SILENT))
        with pytest.raises(BackendUnavailable):
            engine.infer(asking_for(DIE))
        assert isinstance(waiting.exception(20), BackendUnavailable)
    assert link.wait_for(APPLICATION, 20)
    assert len(engine.infer(asking_for(DONE))["energy"]) == 2


@pytest.mark.parametrize(("mode", "limit"), [("mute", "FIRST_WORD_S"), ("good", "SILENCE_S")])
def test_a_bridge_that_lives_and_says_nothing_more_is_ended_and_started_again(bridge, monkeypatch, mode, limit):
    works, started, again = ray_link.subprocess.Popen, [], threading.Event()

    def popen(command, **options):
        if started:
            bridge.mode = "good"
            monkeypatch.setattr(ray_link, limit, 60)
            again.set()
        started.append(works(command, **options))
        return started[-1]

    bridge.mode = mode
    monkeypatch.setattr(ray_link, limit, 1)
    monkeypatch.setattr(ray_link.subprocess, "Popen", popen)
    engine = RayEngine(tiny_bundle(), RaySettings(address="127.0.0.1:1"), start_timeout_s=0)
    assert again.wait(20)
    assert started[0].returncode == -signal.SIGKILL
    assert engine._link.wait_for(APPLICATION, 20)
    assert len(engine.infer(asking_for(DONE))["energy"]) == 2
    engine.close()


def test_a_bridge_that_cannot_be_started_is_tried_again(bridge, monkeypatch):
    works, failed = ray_link.subprocess.Popen, []

    def popen(command, **options):
        if failed:
            return works(command, **options)
        failed.append(command)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(ray_link.subprocess, "Popen", popen)
    engine = RayEngine(tiny_bundle(), RaySettings(address="127.0.0.1:1"), start_timeout_s=20)
    assert len(engine.infer(asking_for(DONE))["energy"]) == 2
    engine.close()
    assert failed


def test_between_two_bridges_nothing_is_ready_and_calls_fail_at_once(engine, monkeypatch):
    link = engine._link
    monkeypatch.setattr(ray_link, "BACKOFF_MAX_S", 60.0)
    monkeypatch.setattr(ray_link, "BACKOFF_MIN_S", 60.0)
    gone = threading.Event()
    monkeypatch.setattr(link._closing, "wait", lambda _: gone.set() or threading.Event.wait(link._closing, 60))
    os.kill(link.pid, signal.SIGKILL)
    assert gone.wait(20)
    assert not engine.ready()
    with pytest.raises(BackendUnavailable, match="the bridge is not running"):
        engine.infer(asking_for(DONE))


def test_without_a_replica_calls_fail_at_once_and_say_why(bridge):
    bridge.mode = "nothing"
    engine = RayEngine(tiny_bundle(), RaySettings(address="127.0.0.1:1"), start_timeout_s=0)
    with engine._link._changed:
        assert engine._link._changed.wait_for(lambda: engine._link.status.applications, 60)
    assert not engine.ready()
    with pytest.raises(BackendUnavailable, match=f"{APPLICATION}: RUNNING") as gone:
        engine.infer(asking_for(DONE))
    assert gone.value.remark == f"no replica of {APPLICATION} runs"
    engine.close()


def test_how_many_replicas_are_wanted_and_run_is_what_serve_said_last(engine, monkeypatch):
    assert engine.replicas() == (APPLICATION, 4, 1)
    monkeypatch.setattr(engine._link, "status", ray_link.ABSENT)
    assert engine.replicas() == (APPLICATION, 4, 0)


def test_before_serve_has_said_anything_the_settings_say_how_many_are_wanted(bridge):
    bridge.mode = "mute"
    engine = RayEngine(tiny_bundle(), RaySettings(address="127.0.0.1:1", replicas_min=3), start_timeout_s=0)
    assert engine.replicas() == (APPLICATION, 3, 0)
    engine.close()


@pytest.mark.parametrize("mode", ["good", "late"])
def test_replicas_of_another_bundle_are_refused_at_the_start(bridge, mode):
    bridge.mode, bridge.digest = mode, "0" * 64
    with pytest.raises(DeploymentStale, match="stockade ray deploy") as stale:
        RayEngine(tiny_bundle(), RaySettings(address="127.0.0.1:1"))
    assert "stockade ray deploy" in stale.value.remark  # so it stands in the log
    assert ray_link._links == {}


def test_models_with_the_same_settings_share_a_bridge_and_the_last_ends_it(bridge):
    settings = RaySettings(address="127.0.0.1:1")
    first, second = RayEngine(tiny_bundle(), settings), RayEngine(tiny_bundle(), settings)
    other = RayEngine(tiny_bundle(), msgspec.structs.replace(settings, namespace="stockade", call_timeout_ms=1000))
    pid = first._link.pid
    assert second._link is first._link
    assert other._link is not first._link
    first.close()
    assert len(second.infer(asking_for(DONE))["energy"]) == 2
    second.close()
    other.close()
    assert ray_link._links == {}
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(EngineClosed):
        second.infer(asking_for(DONE))
