from collections import Counter

import pytest

from gateway.tools.bench.load import Asked
from gateway.tools.bench.machine import MIB, h2load_missing
from gateway.tools.bench.watches import ALL, Drift, drifts, edge_bodies, edge_summary, lookups_in, screens_summary

needs_h2load = pytest.mark.skipif(h2load_missing() is not None, reason=str(h2load_missing()))


@pytest.mark.parametrize(("most", "flat"), [(1000, True), (1100, True), (1101, False)])
def test_ten_percent_is_flat_and_more_is_not(most, flat):
    assert Drift(first=1000, last=1000, least=1000, most=most).flat is flat


def test_the_first_fifth_is_warm_up():
    samples = [{"worker 1": size} for size in (1, 2, 100, 101, 102, 103, 104, 105, 106, 107)]
    assert drifts(samples)["worker 1"] == Drift(first=100, last=107, least=100, most=107)


def test_all_together_are_judged_too():
    samples = [{"worker 1": 100, "recorder 2": 50}] * 8 + [{"worker 1": 130, "recorder 2": 20}] * 2
    found = drifts(samples)
    assert set(found) == {"worker 1", "recorder 2", ALL}
    assert not found["worker 1"].flat
    assert found[ALL].flat


def test_a_process_that_was_replaced_shows_in_the_sum():
    samples = [{"worker 1": 100}] * 5 + [{"worker 9": 140}] * 5
    assert set(drifts(samples)) == {ALL}
    assert not drifts(samples)[ALL].flat


def test_one_sample_is_enough():
    assert drifts([{"worker 1": 100}])[ALL].flat


@pytest.mark.parametrize(("repeat", "least", "most"), [(0.0, 400, 400), (0.5, 180, 260), (1.0, 1, 32)])
def test_a_share_of_the_requests_repeats_and_the_others_come_once(repeat, least, most):
    made = edge_bodies(400, repeat)
    assert len(made) == 400
    assert least <= len(set(made)) <= most
    assert made == edge_bodies(400, repeat), "the same ones each time"


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
    found = edge_summary(asked, Counter(hit=1, miss=3), {"worker": 3 * MIB, "all": 4 * MIB}, 800)
    assert (found["requests_per_s"], found["p50_ms"], found["cpu_us_per_request"]) == (2.0, 2.0, 200.0)
    assert (found["hit_rate"], found["pss_mib"]) == (0.25, {"worker": 3.0, "all": 4.0})
    assert edge_summary(Asked(1.0, [], Counter(OK=1)), Counter(), {"all": 0}, 0)["hit_rate"] == 0


def test_a_round_of_screens_has_medians_and_tails():
    found = screens_summary(800.0, [4.0, 4.0], [900.0, 1_000.0, 5_000.0], [100.0, 100.0, 200.0])
    assert (found["rps"], found["p50_ms"], found["screen_p50_us"]) == (800.0, 4.0, 1_000.0)
    assert found["screen_p99_us"] == pytest.approx(1_000 + 0.98 * 4_000)
    assert (found["shared_p50_us"], found["shared_p99_us"]) == (100.0, pytest.approx(198.0))


@needs_h2load
@pytest.mark.slow
def test_memory_is_watched_on_a_real_gateway(measured, tmp_path):
    report, _ = measured("memory", "--requests", "600", "--workspace", str(tmp_path))
    assert {name.split(" ")[0] for name in report["processes"]} == {"all", "recorder", "supervisor", "worker"}
    assert all(process["least_mib"] > 5 for process in report["processes"].values())


@pytest.mark.slow
def test_the_edge_is_measured_on_a_real_gateway(measured, tmp_path):
    found, shown = measured("edge", "--requests", "120", "--repeat", "0.8", "--workspace", str(tmp_path))
    assert "within the limit" in shown
    assert found["outcomes"]["OK"] > 100
    assert sum(found["lookups"].values()) >= 120
    assert 0.3 < found["hit_rate"] < 0.9
    assert found["pss_mib"].keys() == {"worker", "recorder", "supervisor", "all"}
    assert 100 < found["pss_mib"]["all"] < 300
