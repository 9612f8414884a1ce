"""Stopping, killing and starting again under load: no acknowledged answer is ever missing from the log."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path
from typing import Self

import grpc
import pytest

from ops.audit.store.ring import parse
from tests.e2e.caller import Reply, calling, images, infer_body
from tests.e2e.running import STOP_S, Running, entries_of, serving, until, verified
from tests.e2e.site import copy_site

CONNECTIONS = 4
TENANTS = ("plenty", "kiosk-7", "archivist", "token-user")


class Load:
    """Threads that ask one request after the other, each on a connection of its own, and keep every reply."""

    def __init__(self, running: Running, *, go_on_after_errors: bool = True) -> None:
        self.running = running
        self.replies: list[Reply] = []
        self._stop = threading.Event()
        self._go_on = go_on_after_errors
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CONNECTIONS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        site = self.running.site
        body = infer_body(images()[number : number + 1 + number % 3])
        with calling(site, self.running.facts["data"], site.bearer(TENANTS[number % len(TENANTS)])) as caller:
            while not self._stop.is_set():
                reply = caller.infer(body)
                self.replies.append(reply)
                if reply.code is not grpc.StatusCode.OK:
                    if not self._go_on:
                        return
                    self._stop.wait(0.05)

    def answered(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.code is grpc.StatusCode.OK]

    def wait_for(self, more: int) -> None:
        goal = len(self.answered()) + more
        until(lambda: len(self.answered()) >= goal, f"no {more} more answers: {Counter(map(what, self.replies))}")


def what(reply: Reply) -> tuple[str, str]:
    return reply.code.name, reply.reason


def missing_from(site, replies: list[Reply]) -> list[Reply]:
    """The answers whose trailers name an entry that the log does not have, or has otherwise."""
    entries = entries_of(site)
    return [
        reply
        for reply in replies
        if not (index := int(reply.trailers["x-stockade-audit-index"])) < len(entries)
        or entries[index]["id"] != reply.request_id
        or entries[index]["kind"] != "served"
    ]


def two_workers(document) -> None:
    document["workers"] = 2


@pytest.fixture
def site(made_site, tmp_path):
    return copy_site(made_site, tmp_path / "site")


def test_a_drain_under_load_loses_nothing(site):
    site.change_config(two_workers)
    with serving(site) as running, Load(running, go_on_after_errors=False) as load:
        load.wait_for(100)
        assert running.stop() == 0
        load.end()
    answered = load.answered()
    # A call that meets the shutdown on its way reached nobody: gRPC itself ends it, with UNAVAILABLE or CANCELLED.
    unaccepted = [reply for reply in load.replies if "x-request-id" not in reply.trailers]
    accepted = [reply for reply in load.replies if "x-request-id" in reply.trailers]
    assert {reply.code.name for reply in unaccepted} <= {"UNAVAILABLE", "CANCELLED"}
    assert {what(reply) for reply in accepted} <= {("OK", "OK"), ("UNAVAILABLE", "DRAINING")}
    assert missing_from(site, answered) == []
    served = [entry["id"] for entry in entries_of(site) if entry["kind"] == "served"]
    assert sorted(served) == sorted(reply.request_id for reply in answered)
    report = verified(site)
    assert (report.exit_code, report.findings) == (0, [])


def test_an_idle_stream_and_a_watch_do_not_hold_up_a_drain(site):
    site.change_config(lambda document: document["transport"].update(drain_timeout=f"{2 * STOP_S:.0f}s"))
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
        release = threading.Event()

        def bodies():
            yield infer_body()
            release.wait(2 * STOP_S)

        streams = [caller.stream(bodies()), caller.stream([b""], method="/grpc.health.v1.Health/Watch")]
        for stream in streams:
            next(stream)
        assert running.stop() == 0  # which waits for a shorter time than the drain would for them
        release.set()
        assert list(streams[0]) == []


def test_a_killed_worker_loses_no_answer_and_leaves_word_of_what_it_was_doing(site):
    site.change_config(two_workers)
    with serving(site) as running, Load(running) as load:
        load.wait_for(50)
        dead = running.kill("worker-0")
        until(lambda: running.pid_of("worker-0") != dead, "the worker was not started again")
        load.wait_for(200)
        load.end()
    assert missing_from(site, load.answered()) == []
    unknown = [entry for entry in entries_of(site) if entry["kind"] == "outcome-unknown"]
    ids = Counter(entry["id"] for entry in entries_of(site))
    assert all(entry["gateway"].endswith("/worker-0") and ids[entry["id"]] == 1 for entry in unknown)
    assert verified(site).exit_code == 0
    cut_off = [reply for reply in load.replies if reply.code is not grpc.StatusCode.OK]
    assert {reply.code for reply in cut_off} <= {grpc.StatusCode.UNAVAILABLE}


def test_a_request_in_flight_when_its_worker_dies_is_an_outcome_unknown(site):
    """The recorder is stopped, so that the answer cannot become durable, and the worker is killed while it waits."""
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
        assert caller.infer(infer_body()).code is grpc.StatusCode.OK
        recorder = running.pid_of("recorder")
        os.kill(recorder, 19)  # SIGSTOP
        try:
            call = caller.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            (ring,) = (site.directory / "state/rings").glob("worker-0-*.ring")
            until(lambda: not in_flight(ring), "the first request has not left the ring")
            waiting = call.future(infer_body(), metadata=caller.metadata)
            (request_id,) = until(lambda: in_flight(ring), "the request is not in the ring")
            dead = running.kill("worker-0")
        finally:
            os.kill(recorder, 18)  # SIGCONT
        assert waiting.code() is grpc.StatusCode.UNAVAILABLE
        until(lambda: running.pid_of("worker-0") != dead, "the worker was not started again")
        entry = running.entry(request_id)
    if entry["kind"] == "outcome-unknown":  # it had not reached the recorder; otherwise its own record says served
        assert entry["method"] == "/inference.GRPCInferenceService/ModelInfer"
        assert entry["gateway"].endswith("/worker-0")
    else:
        assert entry["kind"] == "served"
    assert verified(site).exit_code == 0


def in_flight(ring: Path) -> list[str]:
    return [slot.request_id.hex() for slot in parse(ring.read_bytes()).slots]


def test_a_killed_recorder_loses_no_answer(site):
    with serving(site) as running, Load(running) as load:
        for _ in range(2):
            load.wait_for(50)
            dead = running.kill("recorder")
            until(lambda: running.pid_of("recorder") != dead, "the recorder was not started again")  # noqa: B023  called at once
        load.wait_for(50)
        load.end()
    assert missing_from(site, load.answered()) == []
    assert {what(reply) for reply in load.replies} <= {("OK", "OK"), ("UNAVAILABLE", "AUDIT_UNAVAILABLE")}
    recovers = [entry["cause"] for entry in entries_of(site) if entry["kind"] == "recover"]
    assert len(recovers) == 2
    assert verified(site).exit_code == 0


def test_without_a_recorder_there_is_no_answer_until_it_is_back(site):
    site.change_config(lambda document: document["audit"].update(append_timeout="200ms"))
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
        os.kill(running.pid_of("recorder"), 19)
        try:
            refused = caller.infer(infer_body())
        finally:
            os.kill(running.pid_of("recorder"), 18)
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
        assert int(refused.trailers["grpc-retry-pushback-ms"]) > 0
        assert "x-stockade-audit-index" not in refused.trailers
        until(lambda: caller.infer(infer_body()).reason == "OK", "it did not come back")
        until(lambda: running.counted("stockade_requests_total", reason="AUDIT_UNAVAILABLE"), "it was not counted")


def test_several_workers_share_one_log_and_one_page(site):
    site.change_config(two_workers)
    with serving(site) as running, Load(running) as load:
        until(lambda: len(workers_of(load)) == 2 or reconnect(load), "one worker did all the work")
        load.end()
        answered = len(load.answered())

        def counted() -> bool:
            served = running.counted("stockade_requests_total", outcome="served", model="kiosk")
            return served == answered == running.counted("grpc_server_handled_total", grpc_code="OK")

        until(counted, "the page does not show the sum of the workers")
        rows = running.counted("stockade_rows_total", model="kiosk")
    entries = entries_of(site)
    served = [entry for entry in entries if entry["kind"] == "served"]
    assert len({entry["gateway"] for entry in served}) == 2
    assert sum(entry["rows"] for entry in served) == rows
    assert len({entry["id"] for entry in entries}) == len(entries)


def workers_of(load: Load) -> set[str]:
    return {entry["gateway"] for entry in load.running.entries() if entry["kind"] == "served"}


def reconnect(load: Load) -> bool:
    """The kernel spreads connections, not calls: ask once more on a new one."""
    site = load.running.site
    with calling(site, load.running.facts["data"], site.bearer("kiosk-7")) as caller:
        load.replies.append(caller.infer(infer_body()))
    return False


def test_the_log_goes_on_where_it_stopped(site):
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
        first = caller.infer(infer_body())
    size = verified(site).size
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
        second = caller.infer(infer_body())
    assert int(second.trailers["x-stockade-audit-index"]) >= size
    assert missing_from(site, [first, second]) == []
    assert verified(site).exit_code == 0
    assert len({entry["origin"] for entry in entries_of(site) if entry["kind"] == "genesis"}) == 1


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter when it goes between open and read
        return False


def test_when_the_supervisor_is_killed_its_workers_drain_by_themselves_and_it_starts_again(site):
    with serving(site, stop=False) as running:
        worker, recorder = running.pid_of("worker-0"), running.pid_of("recorder")
        running.process.kill()
        running.process.wait()
        until(lambda: not lives(worker), "the worker lives on")
        assert [event["event"] for event in running.events() if event.get("worker") == "worker-0"][-1] == "drained"
        until(lambda: not lives(recorder), "the recorder lives on")
        with serving(site) as again, calling(site, again.facts["data"], site.bearer("kiosk-7")) as caller:
            assert caller.infer(infer_body()).code is grpc.StatusCode.OK
