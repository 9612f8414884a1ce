"""`stockade serve --profile edge` on the kiosk's bundle: it answers, repeats itself, records, and stays small."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.tools.bench.machine import ProcessTree
from ops.audit.verify.verify import verify_log
from tests.e2e.caller import calling, images, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site

MIB = 1 << 20


def private_bytes(pid: int) -> int:
    """What a process has for itself: no page of it is anybody else's."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[1]) * 1024 for fields in lines if fields[0] in {"Private_Clean:", "Private_Dirty:"})


def listeners(port: int) -> int:
    """How many sockets listen on a port."""
    tables = (Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables for line in table]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


@pytest.mark.slow
def test_gateway_and_recorder_stay_within_300_mib_and_answer_again(made_site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    with serving(site, "--profile", "edge") as running:
        with calling(site, running.facts["data"], site.bearer("plenty")) as caller:
            asked = [infer_body(images()[n : n + 1], id=str(n)) for n in range(100)]
            first, again = ([caller.infer(body) for body in asked] for _ in range(2))
        answered = [(one, other) for one, other in zip(first, again, strict=True) if one.reason == "OK"]
        assert len(answered) > 80, "the screens refuse few of these images"
        assert all(one.body == other.body and one.request_id != other.request_id for one, other in answered)
        lookups = "stockade_cache_requests_total"
        until(lambda: running.counted(lookups) == 2 * len(asked), "the page never had all lookups")
        hits = running.counted(lookups, result="hit")
        assert 0.7 * len(answered) < hits <= len(answered), "only what was flagged is made anew"
        assert listeners(int(running.facts["data"].rpartition(":")[2])) == 1
        sizes = ProcessTree(running.process.pid).pss_bytes()
        assert set(sizes) == set(running.pids())
        assert sum(sizes.values()) < 300 * MIB
        assert sum(map(private_bytes, sizes)) < 200 * MIB, "whatever else runs on this machine"
    report = verify_log(site.directory / "log", [site.read("keys/log.vkey").decode()], processes=0)
    assert report.exit_code == 0
