"""Two real gateways with different policies, watched by a real Prometheus with our rules."""

from __future__ import annotations

import shutil
import signal

import pytest

from tests.dashboards.stage import Stage, watching
from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus (Debian: prometheus)")
WHO_USES_WHICH = "sum by (instance, digest) (stockade_policy_info)"  # of the runbook


def recorded_digest(running):
    """The policy that a gateway decides by, as its log says."""
    with calling(running.site, running.facts["data"], running.site.bearer("plenty")) as caller:
        return running.entry(caller.infer(infer_body()).request_id)["policy"]


def test_gateways_with_different_policies_are_told_apart_by_digest_until_they_agree(made_site, tmp_path):
    sites = [copy_site(made_site, tmp_path / name) for name in ("one", "other")]
    sites[1].change_policy(lambda policy: policy["limits"]["two-requests"].update(request_burst=3))
    with serving(sites[0]) as one, serving(sites[1]) as other:
        pages = [running.facts["metrics"] for running in (one, other)]
        with watching(tmp_path, pages, 1) as address:
            prometheus = Stage(one, address, 1)

            def in_force():
                found = prometheus.ask("query", query=WHO_USES_WHICH)["result"]
                return {(row["metric"]["instance"], row["metric"]["digest"]) for row in found}

            def alerts():
                told = prometheus.ask("alerts")["alerts"]
                return {each["labels"]["alertname"]: float(each["value"]) for each in told}

            digests = [recorded_digest(running) for running in (one, other)]
            assert digests[0] != digests[1]
            until(lambda: in_force() == set(zip(pages, digests, strict=True)), "not both on the page")
            until(lambda: alerts().get("StockadePoliciesDiffer") == 2, "nobody says that they differ")
            sites[0].write_policy(sites[1].policy.read_text())
            one.process.send_signal(signal.SIGHUP)
            until(lambda: in_force() == {(page, digests[1]) for page in pages}, "the first one keeps its own")
            until(lambda: "StockadePoliciesDiffer" not in alerts(), "said although they agree")
