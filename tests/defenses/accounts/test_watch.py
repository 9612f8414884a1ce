"""The watch: what it says of queries, whom it says it of, what it forgets, and that nothing breaks it."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.accounts.observed import Asker
from defenses.accounts.watch import Watch
from defenses.errors import CalibrationInvalid, EvidenceInvalid, SnapshotInvalid
from tests.watching import KEY, STARTS, answers, around, ask, images, new_watch, watch_arrays

THINGS = images(1, 400)
SEARCH = around(THINGS[7], 2, 60)
FOUND = math.log(1_000)


def state(watch):
    return msgspec.msgpack.decode(watch.snapshot())


def view(watch, principal):
    return next(one for one in watch.accounts() if one.principal == principal)


def test_different_questions_are_no_evidence_and_have_no_anchor():
    watch = new_watch()
    seen = ask(watch, THINGS[:300])
    assert not seen.anchors
    assert seen.log_evidence.max() < 0
    assert (seen.p_values["similarity"] == 1).all()
    assert (seen.scores["similarity"] == 0).all()
    assert view(watch, "mallory").queries == 300
    assert view(watch, "mallory").repeats == 0


def test_a_search_is_found_and_sees_a_constant():
    watch = new_watch()
    ask(watch, THINGS[:300])
    seen = ask(watch, np.concatenate([THINGS[7:8], SEARCH]))
    assert sorted(seen.anchors) == list(range(61))  # the thing itself was asked before
    given_first = answers(THINGS[7:8])["probabilities"]
    assert all((anchor["probabilities"] == given_first).all() for anchor in seen.anchors.values())
    assert all(set(anchor) == {"probabilities"} for anchor in seen.anchors.values())
    reached = int(np.argmax(seen.log_evidence >= FOUND))
    assert 0 < reached <= 20
    assert (seen.p_values["similarity"][1:] < 1).all()
    assert np.allclose(seen.scores["similarity"], -np.log(seen.p_values["similarity"]))


@pytest.mark.parametrize("innocent", [1, 9])
def test_a_search_hidden_in_innocent_questions_is_found(innocent):
    watch, things = new_watch(), iter(images(3, 600))
    evidence = [
        ask(watch, np.stack([row, *(next(things) for _ in range(innocent))])).log_evidence.max() for row in SEARCH[:20]
    ]
    assert max(evidence) >= FOUND


def test_asking_the_same_again_counts_for_nothing():
    watch = new_watch()
    ask(watch, THINGS[:1])
    before = view(watch, "mallory")
    for _ in range(100):
        seen = ask(watch, THINGS[:1])
        assert (seen.anchors[0]["probabilities"] == answers(THINGS[:1])["probabilities"]).all()
        assert (seen.outcomes["similarity"] == -1).all()
    after = view(watch, "mallory")
    assert after.log_evidence == before.log_evidence
    assert after.queries == before.queries + 100


def test_who_does_its_work_once_more_is_not_suspected_however_much_it_is():
    watch = new_watch()
    rows = [
        row
        for number, thing in enumerate(images(20, 900))
        for row in [thing, *around(thing, number, number % 20 == 0, 0.03)]
    ]
    work = np.stack(rows[:900])
    first = ask(watch, work).log_evidence[-1]
    assert ask(watch, work).log_evidence.max() < max(first, math.log(20))


def test_who_sends_what_another_sends_is_judged_as_if_the_other_were_not_there():
    # A second deployment on trial gets all of the first one's traffic, bursts included, under a name of its own.
    shared, alone = new_watch(), new_watch()
    for number, thing in enumerate(THINGS[:60]):
        for row in [thing, *around(thing, number, 4 if number % 10 == 0 else 0, 0.03)]:
            ask(shared, row[None], "first")
            one, same = ask(shared, row[None], "second"), ask(alone, row[None], "second")
            assert one.log_evidence == same.log_evidence
            assert one.anchors.keys() == same.anchors.keys()
    assert shared.group_of("first") != shared.group_of("second")


def test_other_tenants_get_no_answer_of_this_one():
    watch = new_watch()
    ask(watch, THINGS[:1], "alice", "acme")
    seen = ask(watch, THINGS[:1], "bob", "umbrella")
    assert not seen.anchors
    assert (seen.outcomes["similarity"] == [2, 0]).all()


def test_another_principal_of_the_tenant_gets_answers_of_its_own_until_the_two_are_one():
    watch = new_watch()
    ask(watch, THINGS[7:8], "alice")
    first = ask(watch, SEARCH[:1], "carol")
    assert not first.anchors
    assert (first.outcomes["similarity"] == [2, 1]).all()  # a repeat all the same
    again = ask(watch, SEARCH[1:2], "carol")
    assert (again.anchors[0]["probabilities"] == answers(SEARCH[:1])["probabilities"]).all()
    for row in SEARCH[2:20]:
        ask(watch, row[None], "carol")
    assert watch.group_of("carol") == watch.group_of("alice")
    ask(watch, SEARCH[20:21], "dave")
    assert not ask(watch, THINGS[7:8], "eve").anchors


def test_a_batch_says_what_its_requests_say_one_by_one():
    rows = np.concatenate([THINGS[:20], SEARCH[:20], THINGS[20:40]])
    order = np.random.default_rng(4).permutation(60)
    askers = [Asker(f"p{number % 4}", f"t{number % 2}") for number in range(20)]
    starts = np.arange(0, 60, 3)
    together, alone = new_watch(), new_watch()
    seen = together.observe(askers, starts, {"image": rows[order]}, answers(rows[order]), 5)
    for asker, start in zip(askers, starts.tolist(), strict=True):
        part = rows[order][start : start + 3]
        one = alone.observe([asker], STARTS, {"image": part}, answers(part), 5)
        for name in seen.p_values:
            assert (one.p_values[name] == seen.p_values[name][start : start + 3]).all()
        assert (one.log_evidence == seen.log_evidence[start : start + 3]).all()
        assert [start + row for row in one.anchors] == [row for row in seen.anchors if start <= row < start + 3]
    assert alone.snapshot() == together.snapshot()


def test_those_who_search_together_are_one_group_and_each_is_found():
    watch = new_watch()
    highest = dict.fromkeys("abcde", -math.inf)
    for number, row in enumerate(SEARCH):
        who = "abcde"[number % 5]
        highest[who] = max(highest[who], float(ask(watch, row[None], who).log_evidence[0]))
    assert {watch.group_of(who) for who in "abcde"} == {watch.group_of("a")}
    assert min(highest.values()) >= FOUND
    ask(watch, THINGS[100:101], "zoe")
    assert watch.group_of("zoe") == "zoe"


def test_those_who_search_together_from_different_tenants_are_one_group():
    watch = new_watch()
    for number, row in enumerate(np.concatenate([SEARCH, around(THINGS[7], 5, 60)])):
        ask(watch, row[None], f"p{number % 4}", f"t{number % 4}")
    assert {watch.group_of(f"p{number}") for number in range(4)} == {watch.group_of("p0")}


def test_what_makes_two_a_group_is_no_evidence_against_it():
    watch = new_watch()
    for who, seed in (("alice", 2), ("bob", 5)):  # two bursts about one thing, in two tenants
        for row in around(THINGS[7], seed, 6):
            ask(watch, row[None], who, who)
            group = watch.known.groups.of(who)
            if group is not None:
                break
    assert sorted(group.members) == ["alice", "bob"]
    assert group.evidence.steps == 0
    ask(watch, THINGS[7:8], "bob", "bob")
    assert group.evidence.steps == 1
    assert group.evidence.log_evidence < 0  # a burst goes on, as bursts do


def test_an_operator_can_forgive():
    watch = new_watch()
    for number, row in enumerate(SEARCH):
        ask(watch, row[None], "ab"[number % 2])
    assert view(watch, "a").log_evidence >= FOUND
    watch.forgive("a")
    watch.forgive("nobody")
    assert view(watch, "a").log_evidence == -math.inf
    assert watch.group_of("a") == "a"
    assert view(watch, "b").log_evidence >= FOUND
    assert ask(watch, SEARCH[:1], "a").anchors  # what was asked stays remembered


def test_accounts_and_windows_stay_within_their_bounds():
    watch = new_watch(accounts_max=10, windows_bytes_max=40_000)
    for number in range(100):
        ask(watch, THINGS[number : number + 1], f"p{number}", f"t{number}")
    assert [one.principal for one in watch.accounts()] == [f"p{number}" for number in range(90, 100)]
    assert watch.windows_bytes == sum(window.nbytes for window in watch.windows.values()) <= 40_000
    assert "t99" in watch.windows


def test_a_window_larger_than_the_bound_is_still_used():
    watch = new_watch(windows_bytes_max=1_000)
    ask(watch, THINGS[:100])
    assert ask(watch, SEARCH).anchors


def test_evidence_of_an_account_that_gave_way_is_there_when_it_returns():
    watch = new_watch(accounts_max=5)
    ask(watch, SEARCH)
    before = view(watch, "mallory").log_evidence
    for number in range(20):
        ask(watch, THINGS[number : number + 1], f"p{number}")
    assert "mallory" not in watch.known.accounts
    seen = ask(watch, THINGS[50:51])
    assert seen.log_evidence[0] >= FOUND
    assert seen.log_evidence[0] <= before
    ask(watch, THINGS[51:52], "nobody in particular")
    assert view(watch, "nobody in particular").log_evidence < 0


def test_time_makes_no_difference():
    one, other = new_watch(), new_watch()
    for number, row in enumerate(SEARCH):
        early = ask(one, row[None], now_ns=0)
        late = ask(other, row[None], now_ns=(-1) ** number * number * 10**15)
        assert (early.log_evidence == late.log_evidence).all()
    assert view(other, "mallory").seen_ns == 58 * 10**15  # and a clock that goes back is not followed


def test_a_restored_watch_goes_on_as_if_nothing_had_happened():
    watch, other = new_watch(accounts_max=6), new_watch(accounts_max=6)
    for number, row in enumerate(np.concatenate([THINGS[:30], SEARCH])):
        ask(watch, row[None], f"p{number % 8}", f"t{number % 2}")
    other.restore(watch.snapshot())
    assert other.snapshot() == watch.snapshot()
    assert [*other.accounts()] == [*watch.accounts()]
    assert other.windows_bytes == watch.windows_bytes
    fresh = around(THINGS[200], 9, 30)  # how accounts last moved within a ball is not kept
    for row in np.concatenate([THINGS[40:60], fresh]):
        one, two = ask(watch, row[None], "p3", "t1"), ask(other, row[None], "p3", "t1")
        assert one.log_evidence == two.log_evidence
        assert one.anchors.keys() == two.anchors.keys()
    assert other.snapshot() == watch.snapshot()


def test_an_empty_watch_restores_an_empty_one():
    watch = new_watch()
    watch.restore(new_watch().snapshot())
    assert watch.snapshot() == new_watch().snapshot()


def test_a_snapshot_is_of_use_to_the_same_key_and_calibration_alone():
    snapshot = new_watch().snapshot()
    with pytest.raises(SnapshotInvalid):
        new_watch(key=b"another key of 16 bytes or more").restore(snapshot)
    with pytest.raises(SnapshotInvalid):
        new_watch(arrays=watch_arrays(similarity_allowed=np.array([2, 0]))).restore(snapshot)
    with pytest.raises(SnapshotInvalid):
        new_watch(answer_names=frozenset({"latent"})).restore(snapshot)
    assert KEY not in snapshot


class LetGo:
    """A lock behind which somebody else waits each time: one of `others` comes in whenever it is let go."""

    def __init__(self, others):
        self.others = iter(others)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        next(self.others, lambda: None)()


@pytest.mark.parametrize("turn", range(6))
def test_who_comes_goes_or_returns_while_a_snapshot_is_taken_keeps_his_evidence(monkeypatch, turn):
    monkeypatch.setattr("defenses.accounts.watch_state.ACCOUNTS_AT_ONCE", 1)
    watch, other = new_watch(accounts_max=4), new_watch(accounts_max=4)
    ask(watch, SEARCH[:20])
    for number, name in enumerate(("ann", "bob", "cas", "dan")):  # mallory goes to the archive
        ask(watch, THINGS[10 * number : 10 * number + 9], name, name)

    def come():
        ask(watch, THINGS[100:101])  # mallory returns, and ann gives way
        for name in ("eve", "fay"):  # they search together, and two others give way
            ask(watch, SEARCH[20:40], name)

    other.restore(watch.snapshot(LetGo([lambda: None] * turn + [come])))
    watch.snapshot(LetGo([lambda: None] * 6))
    for name in ("mallory", "ann", "bob", "cas", "dan"):
        here, there = (ask(one, THINGS[200:201], name).log_evidence for one in (watch, other))
        assert there == pytest.approx(here, abs=0.5), name


def test_what_a_group_lent_is_not_its_members_own_when_it_was_away():
    watch = new_watch(accounts_max=4)
    ask(watch, THINGS[:3], "alice", "acme")
    ask(watch, SEARCH[:20], "mallory", "evil")
    watch.known.groups.unite("mallory", "alice")
    ask(watch, SEARCH[20:40], "mallory", "evil")
    alice = watch.known.accounts["alice"]
    assert alice.log_evidence < 0 < watch.known.evidence_of("alice", alice) - 1
    for number, name in enumerate(("ann", "bob", "cas", "dan")):
        ask(watch, THINGS[10 * number + 10 : 10 * number + 12], name, name)
    assert "alice" not in watch.known.accounts
    assert ask(watch, THINGS[100:101], "alice", "acme").log_evidence[0] < 0


BUSY = new_watch()
for _number, _row in enumerate(np.concatenate([THINGS[:5], SEARCH[:20]])):
    ask(BUSY, _row[None], f"p{_number % 3}", f"t{_number % 2}")
SNAPSHOT = BUSY.snapshot()


@given(st.binary(max_size=200) | st.builds(lambda at: SNAPSHOT[:at], st.integers(0, len(SNAPSHOT) - 1)))
def test_any_bytes_are_refused_and_change_nothing(data):
    watch = new_watch()
    watch.restore(SNAPSHOT)
    with pytest.raises(SnapshotInvalid):
        watch.restore(data)
    assert watch.snapshot() == SNAPSHOT


@given(st.data())
def test_any_change_of_a_snapshot_is_restored_or_refused(data):
    memory = msgspec.msgpack.decode(SNAPSHOT)
    place, parent = memory, None
    while isinstance(place, list) and place and (parent is None or data.draw(st.booleans() | st.just(True))):
        at = data.draw(st.integers(0, len(place) - 1))
        parent, place = (place, at), place[at]
    holder, at = parent
    holder[at] = data.draw(
        st.integers(-(2**63), 2**63)
        | st.floats()
        | st.binary(max_size=20)
        | st.text(max_size=3)
        | st.none()
        | st.just([])
    )
    watch = new_watch()
    try:
        watch.restore(msgspec.msgpack.encode(memory))
    except SnapshotInvalid:
        assert watch.snapshot() == new_watch().snapshot()
    else:
        ask(watch, SEARCH[:3], "p1", "t1")  # what was restored can be gone on with
        watch.snapshot()


def test_outputs_of_another_shape_and_too_large_ones_are_refused():
    watch = new_watch()
    ask(watch, THINGS[:1])
    with pytest.raises(EvidenceInvalid):
        watch.observe([Asker("a", "t")], STARTS, {"image": THINGS[:1]}, {"probabilities": np.zeros((1, 3))}, 0)
    with pytest.raises(EvidenceInvalid):
        watch.observe([Asker("a", "t")], STARTS, {"image": THINGS[:1]}, {"probabilities": np.zeros((2, 2))}, 0)
    with pytest.raises(EvidenceInvalid):
        new_watch().observe(
            [Asker("a", "t")], STARTS, {"image": THINGS[:1]}, {"probabilities": np.zeros((1, 2_000))}, 0
        )
    with pytest.raises(EvidenceInvalid):
        watch.observe([Asker("a", "t")], STARTS, {"image": np.zeros((1, 3), np.float32)}, answers(THINGS[:1]), 0)


def test_a_watch_that_keeps_no_answers_has_empty_anchors():
    watch = new_watch(answer_names=frozenset())
    assert ask(watch, SEARCH[:2]).anchors == {1: {}}


@pytest.mark.parametrize(
    "changed",
    [
        {"similarity_bounds": None},
        {"similarity_bounds": np.full((3, 5), 0.1)},
        {"similarity_bounds": np.full((3, 6), 1.0)},
        {"similarity_bounds": np.full((3, 6), 0.1, np.float32)},
        {"direction_bounds": None},
    ],
    ids=str,
)
def test_calibrations_that_mean_nothing_are_refused(changed):
    with pytest.raises(CalibrationInvalid):
        new_watch(arrays=watch_arrays(**changed))


@pytest.mark.parametrize("length", [15, 65])
def test_a_key_has_its_limits(length):
    with pytest.raises(CalibrationInvalid):
        new_watch(key=bytes(length))
    assert new_watch(key=bytes(16)).snapshot()
    assert new_watch(key=bytes(64)).snapshot()


def test_digests_cover_the_screens_arrays_and_nothing_is_told_of_the_key():
    one = new_watch()
    other = new_watch(arrays=watch_arrays(direction_bounds=np.full((7, 18), 0.4)), key=b"k" * 16)
    assert one.digests["similarity"] == other.digests["similarity"]
    assert one.digests["direction"] != other.digests["direction"]
    assert one.techniques.keys() == one.digests.keys()
    assert str(KEY) not in repr(one)
    assert isinstance(one, Watch)
