import pytest

from gateway.tools.bench.memory import ALL, Drift, drifts


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
