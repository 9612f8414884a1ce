"""A budget of queries without Redis: what a caller sees when it is spent, and that it counts rows."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from tests.gateway.rig import image, open_rig, tiny_body

HOUR_MS = 3_600_000


def daily(document: dict[str, Any]) -> None:
    document["models"]["tiny"]["cost_per_row"] = 3
    document["limits"]["unlimited"]["queries_per_day"] = 24


async def test_a_spent_budget_is_a_quota_that_comes_back(made_site, tmp_path):
    async with open_rig(made_site, tmp_path, policy=daily) as rig:
        assert (await rig.ask(tiny_body(image(0.5, 24)))).reason == "OK", "rows, whatever they cost"
        over = await rig.ask(tiny_body(image(0.5, 2)))
        assert (over.code, over.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
        assert HOUR_MS < int(over.trailers["grpc-retry-pushback-ms"]) <= 2 * HOUR_MS
        status = status_pb2.Status.FromString(over.trailers["grpc-status-details-bin"])
        details = {packed.TypeName(): packed for packed in status.details}
        quota, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
        assert details["google.rpc.QuotaFailure"].Unpack(quota)
        assert details["google.rpc.RetryInfo"].Unpack(retry)
        assert quota.violations[0].subject in {"principal-queries-per-day", "tenant-queries-per-day"}
        assert retry.retry_delay.ToMilliseconds() == int(over.trailers["grpc-retry-pushback-ms"])
        (entry,) = rig.sink.records(reason="QUOTA_EXCEEDED")
        assert entry["limits"][-1]["decision"] == "refuse"
        assert entry["limits"][-1]["rule"] == quota.violations[0].subject
        assert (await rig.ask(tiny_body(image(0.5, 25)))).reason == "REQUEST_TOO_LARGE"
