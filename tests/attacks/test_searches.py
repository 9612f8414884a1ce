"""Stories of those who search for an adversarial example and know how they are watched.

The model is a toy (its answer is the mean of the image); what is tried is the watch alone. The lab tries real attacks
on the real model, through a real gateway.
"""

from __future__ import annotations

import math
import resource
from pathlib import Path

import numpy as np
import pytest

from defenses.accounts.account import LOG_EVIDENCE_MAX
from defenses.accounts.archive import KEPT_MIN
from defenses.accounts.observed import Asker
from defenses.accounts.returns import BOUND
from defenses.accounts.watch import ACCOUNTS_MAX, WINDOWS_BYTES_MAX
from tests.watching import answers, around, ask, images, new_watch, watch_arrays

TARGET = images(1, 1)[0]
FOUND = math.log(1_000)
HOSTILE_MIB_MAX = 256.0
"""Of 100,000 accounts that search, and of a thousand windows."""
FURTHER_MIB_MAX = 40.0
"""Of 20,000 more: what the archive and the allocator touch for the first time."""


def innocent(seed, rows):
    return iter(images(100 + seed, rows))


def informative(seen, rows):
    """How many of the rows were answered with something that was not known before."""
    return rows - len(seen.anchors)


def test_an_attacker_who_knows_the_ball_still_cannot_search_within_it():
    # It steps right to the edge of the ball and back, in every direction: however it moves, one answer is all it gets.
    watch = new_watch()
    ask(watch, TARGET[None])
    seen = ask(watch, around(TARGET, 1, 1_000))
    assert len(seen.anchors) == 1_000
    told = {anchor["probabilities"].tobytes() for anchor in seen.anchors.values()}
    assert len(told) == 1


def test_walking_the_threshold_teaches_it_nothing():
    # Ten searches, each stopped just before it would be found, with long innocent stretches between: bounds and balls
    # stay what the bundle says, and the next search is found as soon as the first.
    watch, things = new_watch(), innocent(1, 4_000)
    needed = []
    for search in range(10):
        rows = around(images(200 + search, 1)[0], search, 60)
        asked = 0
        while ask(watch, rows[asked : asked + 1]).log_evidence[0] < math.log(100):
            asked += 1
        needed.append(asked)
        for _ in range(300):
            ask(watch, next(things)[None])
    assert max(needed) <= needed[0] + 6
    assert watch.digests == new_watch().digests


def test_thousands_of_innocent_questions_buy_a_few_queries_and_no_more():
    watch, things = new_watch(), innocent(2, 5_000)
    for _ in range(25):
        ask(watch, np.stack([next(things) for _ in range(200)]))
    seen = ask(watch, around(TARGET, 3, 60))
    first = int(np.argmax(seen.log_evidence >= FOUND))
    assert 0 < first <= int(np.argmax(ask(new_watch(), around(TARGET, 3, 60)).log_evidence >= FOUND)) + 6


def test_an_answer_is_not_pinned_for_another_tenant():
    # The attacker asks first, close to what the victim will ask, and hopes that the victim gets its answer.
    watch = new_watch()
    for row in around(TARGET, 4, 50):
        ask(watch, row[None], "mallory", "evil")
    seen = ask(watch, TARGET[None], "alice", "acme")
    assert not seen.anchors
    assert seen.log_evidence[0] < 0


def test_an_answer_is_not_pinned_for_another_principal_of_the_tenant():
    watch = new_watch()
    for row in around(TARGET, 4, 4):
        ask(watch, row[None], "mallory", "acme")
    assert not ask(watch, TARGET[None], "alice", "acme").anchors
    seen = ask(watch, around(TARGET, 5, 1, 0.02), "alice", "acme")
    assert (seen.anchors[0]["probabilities"] == answers(TARGET[None])["probabilities"]).all()


def test_who_copies_a_victims_questions_does_not_drag_it_in():
    # The attacker knows all that the victim asks, near duplicates included, and asks the same, before and after.
    watch = new_watch()
    rng = np.random.default_rng(5)
    for thing in images(7, 300):
        burst = [thing] if rng.random() > 0.02 else [thing, *around(thing, 8, 5, 0.03)]
        for row in burst:
            ask(watch, row[None], "alice", "acme")
            for _ in range(2):
                close = np.clip(row + rng.normal(0, 0.01, row.shape), 0, 1).astype(np.float32)
                ask(watch, close[None], "mallory", "evil")
    evidence = {one.principal: one.log_evidence for one in watch.accounts()}
    assert evidence["mallory"] >= FOUND / 2
    assert evidence["alice"] < math.log(20)


@pytest.mark.parametrize("tenants", [1, 10])
def test_ten_sybils_share_what_they_did(tenants):
    watch = new_watch()
    asked, found = 0, set()
    for number, row in enumerate(around(TARGET, 6, 300)):
        who = number % 10
        seen = ask(watch, row[None], f"sybil {who}", f"t{who % tenants}")
        asked += informative(seen, 1)
        if seen.log_evidence[0] >= FOUND:
            found.add(who)
        if len(found) == 10:
            break
    assert asked <= 10  # each had one answer that told something
    assert number < (60 if tenants == 1 else 130)


def test_a_flood_of_identities_neither_grows_the_memory_nor_clears_a_record():
    watch = new_watch(accounts_max=500, windows_bytes_max=2_000_000)
    ask(watch, around(TARGET, 7, 60), "mallory", "evil")
    things = innocent(3, 3_000)
    sizes = set()
    for number in range(3_000):
        ask(watch, next(things)[None], f"nobody {number}", f"nowhere {number}")
        if number % 500 == 499:
            sizes.add(watch.windows_bytes)
    assert len(watch.known.accounts) == 500
    assert max(sizes) <= 2_000_000
    assert "mallory" not in watch.known.accounts
    assert ask(watch, images(16, 1), "mallory", "evil").log_evidence[0] >= FOUND
    assert not watch.known.archive.logs[watch.known.archive.logs > LOG_EVIDENCE_MAX].size
    assert (watch.known.archive.logs[watch.known.archive.tags > 0] > KEPT_MIN).all()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_hostile_identities_are_held_in_bounds_and_those_after_them_cost_nothing():
    """Each of them has begun a search; the memory that counts is the process's own."""
    watch, at_once = new_watch(), 500
    ask(watch, around(TARGET, 7, 60), "mallory", "evil")
    (mallory,) = watch.accounts()
    searches = np.concatenate([around(thing, number, 2) for number, thing in enumerate(images(20, at_once))])
    starts, given = np.arange(0, 2 * at_once, 2), answers(searches)

    def flood(first: int, end: int) -> float:
        """Return by how many MiB the process has grown."""
        before = resident_mib()
        for number in range(first, end, at_once):
            askers = [Asker(f"nobody {number + one}", f"nowhere {(number + one) % 1_000}") for one in range(at_once)]
            watch.observe(askers, starts, {"image": searches}, given, number)
        return resident_mib() - before

    assert flood(0, ACCOUNTS_MAX) < HOSTILE_MIB_MAX
    assert len(watch.known.accounts) == ACCOUNTS_MAX
    assert np.mean([one.repeats > 0 for one in watch.accounts()]) > 0.9999  # 24 bits say who asked: one may be mistaken
    assert flood(ACCOUNTS_MAX, ACCOUNTS_MAX + 20_000) < FURTHER_MIB_MAX
    assert len(watch.known.accounts) == ACCOUNTS_MAX
    assert watch.windows_bytes <= WINDOWS_BYTES_MAX
    assert "mallory" not in watch.known.accounts
    assert ask(watch, images(16, 1), "mallory", "evil").log_evidence[0] >= mallory.log_evidence - 1


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def test_burying_ones_anchor_under_innocent_questions_costs_thousands_for_each_answer():
    watch, things = new_watch(), innocent(4, 4_000)
    rows = around(TARGET, 8, 10)
    ask(watch, rows[:3])  # the anchor, twice repeated
    told = 0
    for row in rows[3:6]:
        ask(watch, np.stack([next(things) for _ in range(1_000)]))
        told += informative(ask(watch, row[None]), 1)
    assert told == 0


@pytest.mark.parametrize(("things", "share"), [(520, 0.85), (1_000, 0.1)])
def test_going_round_among_more_things_than_are_remembered_does_not_go_unseen(things, share):
    # With the oldest to give way, an anchor would be gone each time it comes back to it.
    watch, targets = new_watch(), images(17, things)
    for turn in range(3):
        rows = np.stack([around(target, [turn, number], 1)[0] for number, target in enumerate(targets)])
        seen = ask(watch, rows)
    assert len(seen.anchors) / things > share
    assert seen.log_evidence.max() >= FOUND


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_drip_about_few_things_is_found_where_it_is_known_how_often_things_return(calibrated):
    # Six searches at once, hidden among 98.5 % innocent questions: each comes back after 400 others.
    arrays = watch_arrays() | ({BOUND: np.array([0.002])} if calibrated else {})
    watch, things, targets = new_watch(arrays=arrays), images(18, 2_500), images(19, 6)
    rows, own = list(things), range(0, 2_500, 66)
    for turn, place in enumerate(own):
        rows[place] = around(targets[turn % 6], [turn, 1], 1)[0]
    highest = max(float(ask(watch, np.stack(rows[at : at + 100])).log_evidence.max()) for at in range(0, 2_500, 100))
    assert (highest >= FOUND) == calibrated


def test_moving_the_picture_about_gives_few_answers():
    # Each query is moved by up to two pixels: all balls of all moves together are far fewer than the queries.
    watch = new_watch()
    rng = np.random.default_rng(9)
    rows = [np.roll(row, rng.integers(-2, 3, 2), (0, 1)) for row in around(TARGET, 10, 200)]
    told = sum(informative(ask(watch, row[None]), 1) for row in rows)
    assert told <= 25


def test_a_set_back_clock_and_a_leap_give_nothing_back():
    watch = new_watch()
    ask(watch, around(TARGET, 11, 60), now_ns=10**18)
    for now_ns in (0, 10**20, -(10**18)):
        assert ask(watch, images(12, 1), now_ns=now_ns).log_evidence[0] >= FOUND


def test_a_restart_gives_nothing_back():
    watch, restarted = new_watch(), new_watch()
    rows = around(TARGET, 13, 60)
    ask(watch, rows[:30])
    restarted.restore(watch.snapshot())
    seen = ask(restarted, rows[30:])
    assert informative(seen, 30) == 0
    assert seen.log_evidence[0] >= FOUND


def test_exact_repeats_hide_no_search():
    # Polling between two steps changes nothing: what was asked before is not counted, for the attacker neither.
    watch, plain = new_watch(), new_watch()
    for row in around(TARGET, 14, 30):
        polled = ask(watch, np.stack([row, *[TARGET] * 9]))
        one = ask(plain, np.stack([row, TARGET]))
        assert polled.log_evidence[0] == one.log_evidence[0]
    assert one.log_evidence[0] >= FOUND


def test_an_exact_repeat_whose_anchor_was_buried_buys_no_more_than_a_new_question():
    watch, things = new_watch(), innocent(5, 10_000)
    rows = around(TARGET, 17, 40)
    ask(watch, rows)  # one answer, and that is given again
    while watch.windows["acme"].visits.any():
        ask(watch, np.stack([next(things) for _ in range(200)]))
    told = informative(ask(watch, rows[1:]), 39)
    assert told == 1


def test_reading_along_as_another_account_searches_teaches_it_no_more_than_searching():
    # One account asks, and is told the same each time; another asks each question after it, bit for bit.
    watch, plain = new_watch(), new_watch()
    rows = around(TARGET, 16, 60)
    told = 0
    for row in rows:
        ask(watch, row[None], "decoy")
        seen = ask(watch, row[None], "reader")
        told += informative(seen, 1)
        assert seen.log_evidence[0] == ask(plain, row[None], "reader").log_evidence[0]
    assert told == 1
    assert seen.log_evidence[0] >= FOUND


def test_numbers_that_are_none_are_no_way_out():
    watch = new_watch()
    rows = around(TARGET, 15, 40)
    for number, row in enumerate(rows):
        row[number % 28, (7 * number) % 28] = (np.nan, np.inf, -np.inf, 3e38)[number % 4]
    asker = [Asker("mallory", "acme")]
    seen = watch.observe(asker, np.zeros(1, np.intp), {"image": rows}, answers(np.zeros_like(rows)), 0)
    assert len(seen.anchors) >= 35
