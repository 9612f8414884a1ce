"""Connections that cost a server more than they cost an attacker: idle, silent, hasty, slow, and gone."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import grpc
import pytest

from tests.attacks.floods import (
    CANCEL,
    END_HEADERS,
    HEADERS,
    PING,
    RST_STREAM,
    call_headers,
    connect,
    frame,
    literal,
    read_until_silent,
)
from tests.e2e.caller import INFER, STREAM, calling, images, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site

MIB = 2**20
IDLE_BYTES_MAX = 64 * 1024  # of the server's memory, for one connection with TLS that says nothing
SLOW_BYTES_MAX = 128 * MIB  # unread answers to all MESSAGES_MAX would be gigabytes
MESSAGES_MAX = 10_000
FILES = 256


def ca(running):
    return running.site.directory / "tls/ca.crt"


def answers(running, name: str = "plenty") -> None:
    with calling(running.site, running.facts["data"], running.site.bearer(name)) as caller:
        assert caller.infer(infer_body()).code is grpc.StatusCode.OK


@pytest.mark.slow
def test_10000_idle_connections(made_site, tmp_path):
    """Or 2,000, where this process may not open so many files."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    counts = (2_000, 10_000) if limit >= 10_500 else (2_000,)  # `ulimit -n`
    with serving(copy_site(made_site, tmp_path / "site")) as running, ExitStack() as stack:
        answers(running)
        before, count = running.rss_bytes("worker-0"), 0

        def open_one(_: int) -> None:
            stack.enter_context(closing(connect(running.facts["data"], ca(running))))

        for wanted in counts:
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(open_one, range(count, wanted)))
            count = wanted
            answers(running)
            grown = running.rss_bytes("worker-0") - before
            assert grown < count * IDLE_BYTES_MAX, f"{grown / count / 1024:.0f} KiB a connection"
        stack.close()
        answers(running)


def test_connections_that_never_shake_hands(stand):
    host, _, port = stand.facts["data"].rpartition(":")
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(closing(socket.create_connection((host, int(port)))))
        answers(stand)


@pytest.mark.slow  # ten seconds
def test_a_connection_that_never_shakes_hands_is_ended(stand):
    host, _, port = stand.facts["data"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as silent:
        assert silent.recv(1) == b""


@pytest.fixture
def few_files():
    """A shell's or a unit's bound on open files, which a process may raise by itself."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_strangers_have_to_open_as_many_connections_as_the_system_allows_not_as_a_shell_does(
    made_site, tmp_path, few_files
):
    with serving(copy_site(made_site, tmp_path / "site")) as running, ExitStack() as stack:
        few_files()  # for ourselves
        host, _, port = running.facts["data"].rpartition(":")
        for _ in range(2 * FILES):
            stack.enter_context(closing(socket.create_connection((host, int(port)))))
        answers(running)


def test_a_rapid_reset_by_a_stranger_writes_no_records(stand):
    """CVE-2023-44487: open and cancel calls as fast as frames can be written."""
    first = len(stand.entries())
    before = stand.rss_bytes("worker-0")
    block = call_headers(INFER)
    with closing(connect(stand.facts["data"], ca(stand))) as connection:
        storm = b"".join(
            frame(HEADERS, END_HEADERS, number, block) + frame(RST_STREAM, 0, number, CANCEL.to_bytes(4, "big"))
            for number in range(1, 4001, 2)
        )
        try:
            connection.sendall(storm)
            read_until_silent(connection)
        except OSError:
            pass  # the server hung up on us, as it may
    answers(stand)
    assert stand.rss_bytes("worker-0") - before < 32 * MIB
    with calling(stand.site, stand.facts["data"], stand.site.bearer("plenty")) as caller:
        last = caller.infer(infer_body())
    until(lambda: last.request_id in {entry["id"] for entry in stand.entries(first)}, "not published")
    until(lambda: any("reasons" in entry for entry in stand.entries(first)), "strangers were not summed")
    strangers = [
        entry for entry in stand.entries(first) if "reasons" not in entry and "peer" in entry and "auth" not in entry
    ]
    assert strangers == []


def test_a_rapid_reset_by_a_known_caller_is_recorded_to_the_last_call(stand):
    """Each call has its entry, but for refusals that cost nothing: beyond ten a second they are in a sum."""
    first = len(stand.entries())
    block = call_headers(INFER) + literal(*stand.site.bearer("hasty")[0])

    def recorded() -> list[str]:
        entries = [entry for entry in stand.entries(first) if entry.get("auth", {}).get("credential") == "hasty"]
        return [reason for entry in entries for reason in Counter(entry.get("reasons") or [entry["reason"]]).elements()]

    with closing(connect(stand.facts["data"], ca(stand))) as connection:
        for number in range(1, 41, 2):
            connection.sendall(frame(HEADERS, END_HEADERS, number, block))
        until(lambda: len(recorded()) >= 18, "who may have two requests was not refused eighteen")
        for number in range(1, 41, 2):
            connection.sendall(frame(RST_STREAM, 0, number, CANCEL.to_bytes(4, "big")))
        until(lambda: len(recorded()) >= 20, "twenty calls do not have twenty records")
    reasons = Counter(recorded())
    assert reasons.total() == 20
    assert reasons["RATE_LIMITED"] == 18
    assert reasons.keys() <= {"RATE_LIMITED", "BODY_INCOMPLETE", "CANCELLED"}


def test_a_flood_of_pings_ends_the_connection_and_nothing_else(stand):
    with closing(connect(stand.facts["data"], ca(stand))) as connection:
        try:
            connection.sendall(b"".join(frame(PING, 0, 0, number.to_bytes(8, "big")) for number in range(20_000)))
            heard = read_until_silent(connection)
        except OSError:
            heard = b""
    assert b"too_many_pings" in heard or not heard or len(heard) < 20_000 * 17
    answers(stand)


def test_a_client_that_reads_no_answers_is_held_back(stand):
    """It may send as much as it likes: what is accepted is bounded by the window, and so is the memory."""
    before = stand.rss_bytes("worker-0")
    sent = Counter()
    stop = threading.Event()
    body = infer_body(images()[:64])

    def bodies():
        while not stop.is_set() and sent["messages"] < MESSAGES_MAX:
            sent["messages"] += 1
            yield body

    # Without its probe a client does not offer more and more room to answers, which it does however slowly it reads.
    options = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(stand.site.read("tls/ca.crt"))
    with grpc.secure_channel(stand.facts["data"], credentials, options=options) as channel:
        stream = channel.stream_stream(STREAM)(bodies(), metadata=stand.site.bearer("plenty"))
        seen = [-1] * 4
        while {*seen} != {sent["messages"]}:  # until nothing moves any more
            seen = [*seen[1:], sent["messages"]]
            time.sleep(0.25)
        answers(stand)
        assert sent["messages"] < MESSAGES_MAX, "nothing held it back"
        assert stand.rss_bytes("worker-0") - before < SLOW_BYTES_MAX
        stop.set()
        stream.cancel()
    answers(stand)


def test_cancelled_calls_have_a_record_each(stand):
    first = len(stand.entries())
    with calling(stand.site, stand.facts["data"], stand.site.bearer("archivist")) as caller:
        ask = caller.channel.unary_unary(INFER)
        calls = [ask.future(infer_body(images()[:32]), metadata=caller.metadata) for _ in range(60)]
        for call in calls:
            call.cancel()
        ended = Counter(call.code() for call in calls)
        last = caller.infer(infer_body())
    assert set(ended) <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.OK}
    until(lambda: last.request_id in {entry["id"] for entry in stand.entries(first)}, "not published")
    until(lambda: in_flight(stand) == 0, "a cancelled call is still in flight")
    begun = stand.counted("grpc_server_started_total")

    def all_recorded() -> bool:
        return stand.counted("grpc_server_handled_total") == stand.counted("grpc_server_started_total")

    until(all_recorded, f"of {begun} calls some never ended")
    theirs = [entry for entry in stand.entries(first) if entry.get("auth", {}).get("credential") == "archivist"]
    assert {entry["reason"] for entry in theirs} <= {"OK", "CANCELLED", "BODY_INCOMPLETE"}
    assert len({entry["id"] for entry in theirs}) == len(theirs)


def in_flight(running) -> float:
    return running.counted("stockade_inflight_requests")


def test_deadlines_that_pass_have_a_record_each(stand):
    first = len(stand.entries())
    asked = 40
    with calling(stand.site, stand.facts["data"], stand.site.bearer("lapsed")) as caller:
        assert caller.infer(infer_body()).code is grpc.StatusCode.OK
        replies = [caller.infer(infer_body(images()[:64]), timeout=0.004) for _ in range(asked)]
        last = caller.infer(infer_body())
    assert {reply.code for reply in replies} <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK}
    until(lambda: last.request_id in {entry["id"] for entry in stand.entries(first)}, "not published")
    theirs = [entry for entry in stand.entries(first) if entry.get("auth", {}).get("credential") == "lapsed"]
    known = {"OK", "CANCELLED", "BODY_INCOMPLETE", "DEADLINE_PASSED", "DEADLINE_UNMEETABLE"}
    assert {entry["reason"] for entry in theirs} <= known
    answered = {reply.request_id for reply in replies if reply.code is grpc.StatusCode.OK}
    assert answered <= {entry["id"] for entry in theirs if entry["reason"] == "OK"}
