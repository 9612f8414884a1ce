"""More than the gateway can do: some are answered, the rest are told to come again, and each has its record."""

from __future__ import annotations

from collections import Counter

import grpc
import pytest

from tests.e2e.caller import INFER, Reply, calling, images, infer_body, infer_request, reply_of
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site

ASKED = 200


def flood(running, name: str, body: bytes, count: int = ASKED) -> list[Reply]:
    """Ask all at once, on one connection."""
    with calling(running.site, running.facts["data"], running.site.bearer(name)) as caller:
        assert (
            caller.infer(infer_body()).code is grpc.StatusCode.OK
        )  # from now on it knows how many streams it may open
        ask = caller.channel.unary_unary(INFER)
        calls = [ask.future(body, metadata=caller.metadata, timeout=60) for _ in range(count)]
        return [ended(call) for call in calls]


def ended(call) -> Reply:
    if call.code() is grpc.StatusCode.OK:
        return Reply(grpc.StatusCode.OK, "", call.result(), dict(call.trailing_metadata()))
    return reply_of(call)


def everything_is_recorded(running, replies: list[Reply]) -> dict[str, dict]:
    """Each has its entry, or is one of many refusals in a sum."""
    single = {reply.request_id: reply for reply in replies if "x-stockade-audit-index" in reply.trailers}
    summed = Counter(reply.reason for reply in replies if reply.request_id not in single)
    assert summed.keys() <= {"OVERLOADED"}

    def recorded() -> dict[str, dict]:
        entries = running.entries()
        found = {entry["id"]: entry for entry in entries if entry["id"] in single}
        sums = sum((Counter(entry["reasons"]) for entry in entries if "reasons" in entry), Counter())
        return found if (len(found), sums) == (len(single), summed) else {}

    entries = until(recorded, "not everything is in the log")
    assert {name: entry["reason"] for name, entry in entries.items()} == {
        name: reply.reason for name, reply in single.items()
    }
    return entries


@pytest.fixture
def site(made_site, tmp_path):
    return copy_site(made_site, tmp_path / "site")


def test_a_full_queue_refuses_with_a_time_to_come_again(site):
    site.change_config(lambda document: document["engine"].update(queue_rows_max=256, batch_rows_max=64))
    with serving(site) as running:
        replies = flood(running, "plenty", infer_body(images()[:64]))
        reasons = Counter(reply.reason for reply in replies)
        assert reasons.keys() == {"OK", "QUEUE_FULL"}, reasons
        for reply in replies:
            if reply.reason == "QUEUE_FULL":
                assert reply.code is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert int(reply.trailers["grpc-retry-pushback-ms"]) > 0
        entries = everything_is_recorded(running, replies)
        full = reasons["QUEUE_FULL"]
        until(lambda: running.counted("stockade_requests_total", reason="QUEUE_FULL") == full, "not counted")
        served = [entry for entry in entries.values() if entry["kind"] == "served"]
        assert len(served) == reasons["OK"]
        until(lambda: running.counted("stockade_inflight_requests") == 0, "something is still in flight")


def test_near_its_bound_the_gateway_sheds_the_lower_lane_first(site):
    site.change_config(lambda document: document["transport"].update(in_flight_max=20))
    with serving(site) as running:
        replies = flood(running, "plenty", infer_body(images()[:64]))
        reasons = Counter(reply.reason for reply in replies)
        assert reasons.keys() <= {"OK", "OVERLOADED"}, {reply.details for reply in replies}
        assert reasons["OVERLOADED"] > 0
        for reply in replies:
            if reply.reason == "OVERLOADED":
                assert reply.code is grpc.StatusCode.UNAVAILABLE
                assert int(reply.trailers["grpc-retry-pushback-ms"]) > 0
        everything_is_recorded(running, replies)
        with calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
            assert caller.infer(infer_body()).code is grpc.StatusCode.OK


def test_a_deadline_that_cannot_be_met_is_refused_before_it_costs_anything(site):
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("plenty")) as caller:
        for _ in range(15):  # until the gateway knows what 256 rows take
            assert caller.infer(infer_body(images()[:256])).code is grpc.StatusCode.OK
        rows = 15 * 256
        until(lambda: running.counted("stockade_rows_total", model="kiosk") == rows, "not counted")

        request = infer_request(images()[:256])
        request.parameters["timeout"].int64_param = 500  # microseconds
        reply = caller.infer(request.SerializeToString())
        assert (reply.code, reply.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_UNMEETABLE")
        assert int(reply.trailers["grpc-retry-pushback-ms"]) == -1
        assert running.entry(reply.request_id)["reason"] == "DEADLINE_UNMEETABLE"
        until(lambda: running.counted("stockade_requests_total", reason="DEADLINE_UNMEETABLE") == 1, "not counted")
        assert running.counted("stockade_rows_total", model="kiosk") == rows
