"""Attacks on the proof of work: each a story of somebody who wants the answers without the work."""

import os

import pytest

from defenses.errors import ProofInvalid
from defenses.extraction.proof_of_work import BITS_MIN, WINDOW_NS, Difficulty, Toll, solve, window_of

NOW_NS = 28_000_000 * WINDOW_NS


@pytest.fixture
def toll():
    return Toll(os.urandom(32))


def refusal(toll, principal, proof, bits_min=BITS_MIN, now_ns=NOW_NS):
    with pytest.raises(ProofInvalid) as refused:
        toll.take(principal, proof, bits_min, now_ns)
    return refused.value.problem


def test_one_proof_sent_a_thousand_times_is_worth_one_answer(toll):
    proof = solve(toll.ask("mallory", BITS_MIN, NOW_NS, os.urandom(16)))
    toll.take("mallory", proof, BITS_MIN, NOW_NS)
    for second in range(1_000):
        now_ns = NOW_NS + second * 200_000_000
        assert refusal(toll, "mallory", proof, now_ns=now_ns) in ("replayed", "expired")


def test_a_proof_is_worth_nothing_at_another_worker_or_after_a_restart(toll):
    proof = solve(toll.ask("mallory", BITS_MIN, NOW_NS, os.urandom(16)))
    assert refusal(Toll(os.urandom(32)), "mallory", proof) == "forged"


def test_who_signs_challenges_himself_is_found_out(toll):
    mine = Toll(os.urandom(32))
    assert refusal(toll, "mallory", solve(mine.ask("mallory", BITS_MIN, NOW_NS, os.urandom(16)))) == "forged"


def test_making_a_challenge_easier_breaks_it(toll):
    challenge = toll.ask("mallory", 30, NOW_NS, os.urandom(16))
    easier = challenge.replace(".30.", f".{BITS_MIN}.", 1)
    proof = solve(easier, hashes_max=100_000)
    assert proof is not None
    assert refusal(toll, "mallory", proof) == "forged"


def test_a_farm_that_solves_for_others_cannot_sell_its_proofs(toll):
    proof = solve(toll.ask("farm", BITS_MIN, NOW_NS, os.urandom(16)))
    assert refusal(toll, "mallory", proof) == "forged"
    toll.take("farm", proof, BITS_MIN, NOW_NS)


def test_proofs_made_beforehand_are_stale_when_they_are_needed(toll):
    """A week of quiet work, to be spent in one minute."""
    hoard = [solve(toll.ask("mallory", BITS_MIN, NOW_NS, os.urandom(16))) for _ in range(50)]
    later_ns = NOW_NS + 2 * WINDOW_NS
    assert {refusal(toll, "mallory", proof, now_ns=later_ns) for proof in hoard} == {"expired"}


def test_proofs_made_while_it_was_easy_do_not_count_when_it_is_hard(toll):
    rule = Difficulty(bits=BITS_MIN, bits_max=16, days_per_bit=0.25)
    easy = rule.bits_for(0.0)
    hoard = [solve(toll.ask("mallory", easy, NOW_NS, os.urandom(16))) for _ in range(20)]
    assert {refusal(toll, "mallory", proof, bits_min=rule.bits_for(0.3)) for proof in hoard} == {"too easy"}


def test_a_challenge_from_a_clock_that_is_ahead_is_not_kept_for_later(toll):
    ahead_ns = NOW_NS + 100 * WINDOW_NS
    proof = solve(toll.ask("mallory", BITS_MIN, ahead_ns, os.urandom(16)))
    assert refusal(toll, "mallory", proof) == "expired"
    assert window_of(ahead_ns) == window_of(NOW_NS) + 100


def test_filling_the_memory_costs_the_work_and_opens_nothing():
    toll = Toll(os.urandom(32), taken_max=30)
    proofs = [solve(toll.ask("mallory", BITS_MIN, NOW_NS, os.urandom(16))) for _ in range(31)]
    for proof in proofs[:30]:
        toll.take("mallory", proof, BITS_MIN, NOW_NS)
    assert refusal(toll, "mallory", proofs[30]) == "full"
    assert refusal(toll, "mallory", proofs[0]) == "replayed", "and nothing that was taken is forgotten for it"
