"""The log: what is not on the list has no way in, a flood stays small, a line stays a line."""

import io
import json
import string
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.process import logging as log_module
from ops.process.logging import FIELDS, Log, configure

NOW_NS = 1_795_593_600_123_456_789


class Clock:
    now_ns = NOW_NS

    def __call__(self):
        return self.now_ns


def log_to(stream, level="info", *, text=False, clock=None, **bound):
    return Log(stream, level, text=text, wall_ns=clock or Clock(), bound=bound)


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def line_of(event, **fields):
    """The line that an event gives."""
    stream = io.StringIO()
    log_to(stream)(event, **fields)
    return lines(stream)[0]


def test_a_line_has_time_level_event_and_its_fields():
    stream = io.StringIO()
    log_to(stream, worker="worker-0")("child-ended", level="error", child="recorder", exit_code=-9, duration_ms=1.23456)
    assert lines(stream) == [
        {
            "time": "2026-11-25T08:00:00.123456Z",
            "level": "error",
            "event": "child-ended",
            "worker": "worker-0",
            "child": "recorder",
            "exit_code": -9,
            "duration_ms": 1.235,
        }
    ]


@pytest.mark.parametrize(
    ("least", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(least, written):
    stream = io.StringIO()
    log = log_to(stream, least)
    for level in ("debug", "info", "warning", "error"):
        log("serving", level=level)
    assert [line["level"] for line in lines(stream)] == written


SECRETS = {
    "authorization": "Bearer kiosk-7-a.c2VjcmV0LXNlY3JldC1zZWNyZXQ",
    "api_key": "kiosk-7-a.c2VjcmV0LXNlY3JldC1zZWNyZXQ",
    "password": "hunter2",
    "payload": "0.7342 0.2",
    "inputs": [0.7342, 0.2],
    "metadata": {"x-api-key": "kiosk-7-a.c2VjcmV0LXNlY3JldC1zZWNyZXQ"},
    "exception": ValueError("hunter2"),
    "msg": "hunter2",
    "body": b"hunter2",
}


@pytest.mark.parametrize("text", [False, True])
def test_planted_secrets_have_no_way_in(text):
    """Under a name that is not on the list, and under one that is but with something else in it."""
    stream = io.StringIO()
    log = log_to(stream, text=text)
    log("request-failed", request_id="0af7", **SECRETS)
    log(
        "request-failed",
        reason={"secret": "hunter2"},
        file=b"hunter2",
        line="hunter2",
        rows=[1],
        method=SECRETS["exception"],
    )
    for planted in ("hunter2", "c2VjcmV0", "0.7342", "kiosk-7-a"):
        assert planted not in stream.getvalue()
    if not text:
        assert [line["fields_dropped"] for line in lines(stream)] == [len(SECRETS), 5]
        assert lines(stream)[0]["request_id"] == "0af7"


@pytest.mark.parametrize(
    "credential",
    [
        "kiosk-7-a.c2VjcmV0LXNlY3JldC1zZWNyZXQ",
        "the key kiosk-7-a.c2VjcmV0LXNlY3JldC1zZWNyZXQ is unknown",
        "Bearer abcdefgh",
        "basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln",
        "PRIVATE+KEY+stockade.local+11cf4764+AVPo2osG9QOR0tV4",
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_a_credential_is_withheld_even_in_a_field_that_is_allowed(credential):
    assert line_of("request-failed", problem=credential)["problem"] == "[withheld]"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("origin", "stockade.local/26b49424"),
        ("digest", "a" * 64),
        ("peer", "ipv4:127.0.0.1:50114"),
        ("method", "/inference.GRPCInferenceService/ModelInfer"),
        ("file", "/srv/stockade.d/gateway/request/pipeline.py"),
        ("version", "0.1.0"),
        ("credential", "kiosk-7-a"),
        ("expires", "2027-12-26T08:00:00+00:00"),
    ],
)
def test_what_is_no_credential_is_shown(field, value):
    assert line_of("serving", **{field: value})[field] == value


def test_no_field_is_named_after_a_secret_or_a_payload():
    parts = {"secret", "token", "password", "authorization", "key", "payload", "input", "output", "body", "header"}
    assert [name for name in FIELDS if any(part in name for part in parts)] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", True),
        ("rows", 1.5),
        ("rows", 2**63),
        ("rows", -(2**63)),
        ("waited_s", float("nan")),
        ("waited_s", float("inf")),
        ("waited_s", True),
        ("reason", 1),
        ("reason", b"x"),
    ],
)
def test_a_value_of_another_type_is_left_out(field, value):
    assert line_of("serving", **{field: value}) == {
        "time": "2026-11-25T08:00:00.123456Z", "level": "info", "event": "serving", "fields_dropped": 1
    }  # fmt: skip


def test_a_value_that_is_not_known_is_simply_not_there():
    assert set(line_of("serving", model=None)) == {"time", "level", "event"}


def test_text_is_cut_at_the_limit():
    stream = io.StringIO()
    log = log_to(stream)
    limit = log_module.TEXT_CHARACTERS_MAX
    log("serving", model="m " * (limit // 2))
    log("serving", model="m " * (limit // 2) + "x")
    whole, cut = (line["model"] for line in lines(stream))
    assert len(whole) == len(cut) == limit
    assert whole.endswith("m ")
    assert cut.endswith("…")


VALUES = st.text() | st.integers() | st.floats()


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), VALUES), st.text(), st.booleans())
def test_whatever_is_logged_is_one_line(fields, event, text):
    stream = io.StringIO()
    log_to(stream, text=text)(event, **fields)
    written = stream.getvalue()
    assert written.endswith("\n")
    assert len(written.splitlines()) == 1
    assert written.isascii()
    if not text:
        assert json.loads(written)["level"] == "info"


@pytest.mark.parametrize(
    "event", ["", "Has Capitals", "a\nb", "9", "e" * 65, 'x"', "key kiosk.c2VjcmV0LXNlY3JldC1zZWNyZXQ"]
)
def test_an_event_is_a_fixed_name(event):
    assert line_of(event)["event"] == "unnamed-event"


def test_a_flood_of_one_event_is_held_back_and_counted_and_hides_no_other():
    stream, clock = io.StringIO(), Clock()
    log = log_to(stream, clock=clock)
    limit = log_module.EVENTS_PER_WINDOW
    for _ in range(limit + 1000):
        log("request-failed")
    log("draining")
    assert [line["event"] for line in lines(stream)] == ["request-failed"] * limit + ["draining"]
    clock.now_ns += log_module.WINDOW_NS - 1
    log("request-failed")
    assert len(lines(stream)) == limit + 1
    clock.now_ns += 1
    log("request-failed")
    log("request-failed")
    assert [line.get("held_back") for line in lines(stream)[-2:]] == [1001, None]


def test_a_clock_that_goes_back_does_not_silence_the_log():
    stream, clock = io.StringIO(), Clock()
    log = log_to(stream, clock=clock)
    for _ in range(log_module.EVENTS_PER_WINDOW):
        log("serving")
    clock.now_ns -= 3_600_000_000_000
    log("serving")
    assert len(lines(stream)) == log_module.EVENTS_PER_WINDOW + 1


def test_names_of_events_are_remembered_up_to_a_limit():
    log = log_to(io.StringIO())
    for index in range(log_module.EVENT_NAMES_MAX + 1):
        log(f"event-{index}")
    assert len(log._windows) == 1


class FullDisk(io.StringIO):
    full = True

    def write(self, text):
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_log_that_cannot_be_written_stops_nobody_and_says_so_later():
    stream = FullDisk()
    log = log_to(stream)
    log("serving")
    log("draining")
    stream.full = False
    log("drained")
    log("stopping")
    assert [(line["event"], line.get("lines_lost")) for line in lines(stream)] == [("drained", 2), ("stopping", None)]
    stream.close()
    log("serving")  # a closed stream is no reason to stop either


def test_threads_do_not_mix_their_lines(monkeypatch):
    monkeypatch.setattr(log_module, "EVENTS_PER_WINDOW", 10_000)
    stream = io.StringIO()
    log = log_to(stream)
    threads = [
        threading.Thread(target=lambda name=name: [log("serving", model=name * 50) for _ in range(200)])
        for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(stream)) == 800
    assert all(len(set(line["model"])) == 1 for line in lines(stream))


def test_text_is_for_people():
    stream = io.StringIO()
    log_to(stream, text=True)("child-ended", level="error", child="worker 0", exit_code=-9, model="a\nforged")
    assert stream.getvalue() == '08:00:00.123 error   child-ended child="worker 0" exit_code=-9 model="a\\nforged"\n'


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "wanted", "as_json"),
    [
        (io.StringIO, "auto", True),
        (Terminal, "auto", False),
        (Terminal, "json", True),
        (io.StringIO, "text", False),
    ],
)
def test_configure_chooses_the_form(stream, wanted, as_json):
    opened = stream()
    configure("info", opened, format=wanted, wall_ns=Clock(), worker="worker-1")("serving")
    assert opened.getvalue().startswith("{") is as_json
    assert "worker-1" in opened.getvalue()


@given(st.text(string.ascii_letters + string.digits + "-_", min_size=22, max_size=60))
def test_any_secret_half_behind_its_id_is_withheld(secret):
    assert line_of("serving", problem=f"kiosk-7-a.{secret}")["problem"] == "[withheld]"
