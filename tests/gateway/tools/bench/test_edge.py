import json
import subprocess
import sys
from collections import Counter

import pytest

from gateway.tools.bench.confine import Group, confined, memory_group
from gateway.tools.bench.edge import Asked, bodies, lookups_in, summary

MIB = 1 << 20


@pytest.mark.parametrize(("repeat", "least", "most"), [(0.0, 400, 400), (0.5, 180, 260), (1.0, 1, 32)])
def test_a_share_of_the_requests_repeats_and_the_others_come_once(repeat, least, most):
    made = bodies(400, repeat)
    assert len(made) == 400
    assert least <= len(set(made)) <= most
    assert made == bodies(400, repeat), "the same ones each time"


def test_lookups_are_read_from_the_page_of_metrics():
    page = (
        'stockade_cache_requests_total{model="kiosk",result="hit"} 3.0\n'
        'stockade_cache_requests_total{model="tiny",result="hit"} 2.0\n'
        'stockade_cache_requests_total{model="kiosk",result="miss"} 4.0\n'
        "stockade_cache_bytes 9.0\n"
    )
    assert lookups_in(page) == {"hit": 5, "miss": 4}
    assert lookups_in("") == {}


def test_the_figures_follow_from_what_was_seen():
    asked = Asked(2.0, [1.0, 2.0, 3.0], Counter({"OK": 3, "UNAVAILABLE": 1}))
    found = summary(asked, Counter(hit=1, miss=3), {"worker": 3 * MIB, "all": 4 * MIB}, 800)
    assert (found["requests_per_s"], found["p50_ms"], found["cpu_us_per_request"]) == (2.0, 2.0, 200.0)
    assert (found["hit_rate"], found["pss_mib"]) == (0.25, {"worker": 3.0, "all": 4.0})
    assert summary(Asked(1.0, [], Counter(OK=1)), Counter(), {"all": 0}, 0)["hit_rate"] == 0


def test_a_command_gets_one_core_and_its_group(tmp_path):
    assert confined(["serve", "a b"], 1, None) == ["taskset", "-c", "1", "serve", "a b"]
    (tmp_path / "cgroup.procs").touch()
    program = "import os; print(os.getpid(), len(os.sched_getaffinity(0)))"
    command = confined([sys.executable, "-c", program], 0, Group(tmp_path, 1))
    pid, cores = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert (tmp_path / "cgroup.procs").read_text().strip() == pid
    assert cores == "1"


def test_a_group_keeps_its_limit_and_is_gone_afterwards():
    with memory_group(64 * MIB) as group:
        if group is None:
            pytest.skip("no control group can be made here")
        program = "held = bytearray(128 << 20); print(len(held))"
        done = subprocess.run(confined([sys.executable, "-c", program], 0, group), capture_output=True, check=False)
        assert done.returncode != 0
        assert group.killed() == 1
        peak = group.peak_bytes()
        assert peak is not None
        assert peak <= 64 * MIB
    assert not group.directory.exists()


@pytest.mark.slow
def test_the_edge_is_measured_on_a_real_gateway(tmp_path):
    report = tmp_path / "report.json"
    arguments = ["--requests", "120", "--repeat", "0.8", "--workspace", str(tmp_path), "--report", str(report)]
    command = [sys.executable, "-m", "gateway", "bench", "edge", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "within the limit" in done.stdout
    found = json.loads(report.read_text())
    assert found["outcomes"]["OK"] > 100
    assert sum(found["lookups"].values()) >= 120
    assert 0.3 < found["hit_rate"] < 0.9
    assert found["pss_mib"].keys() == {"worker", "recorder", "supervisor", "all"}
    assert 100 < found["pss_mib"]["all"] < 300
