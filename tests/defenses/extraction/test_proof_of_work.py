"""Proofs of work: what is a proof, and that each is taken once, from whom it was asked of, in its time."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.errors import ProofInvalid, RuleInvalid
from defenses.extraction.proof_of_work import (
    PROOF_CHARACTERS_MAX,
    WINDOW_NS,
    Difficulty,
    ProofProblem,
    Toll,
    check,
    issue,
    solve,
    zero_bits,
)

KEY = bytes(range(32))
SEED = bytes(16)
NOW_NS = 28_333_333 * WINDOW_NS + 5


def proof_for(principal="ann", bits=8, now_ns=NOW_NS, seed=SEED, key=KEY):
    proof = solve(issue(key, principal, bits, now_ns, seed))
    assert proof is not None
    return proof


def problem_of(proof, principal="ann", bits_min=8, now_ns=NOW_NS, key=KEY):
    with pytest.raises(ProofInvalid) as refused:
        check(key, principal, proof, bits_min, now_ns)
    return refused.value.problem


def test_what_is_solved_is_taken():
    checked = check(KEY, "ann", proof_for(), 8, NOW_NS)
    assert checked.window == NOW_NS // WINDOW_NS


@given(principal=st.text(max_size=40), bits=st.integers(8, 10), seed=st.binary(min_size=16, max_size=16))
@settings(deadline=None, max_examples=30)
def test_every_challenge_can_be_solved_and_checked(principal, bits, seed):
    check(KEY, principal, proof_for(principal, bits, seed=seed), bits, NOW_NS)


@given(text=st.text(max_size=200))
@settings(deadline=None)
def test_any_text_is_a_proof_or_the_named_error(text):
    with pytest.raises(ProofInvalid):
        check(KEY, "ann", text, 8, NOW_NS)
    assert solve(text, hashes_max=10) is None


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_a_changed_character_is_no_proof(data):
    proof = proof_for()
    place = data.draw(st.integers(0, len(proof) - 1))
    other = data.draw(st.sampled_from("0123456789abcdef.Z é\n"))
    changed = proof[:place] + other + proof[place + 1 :]
    try:
        check(KEY, "ann", changed, 8, NOW_NS)
    except ProofInvalid:
        return
    assert changed.rpartition(".")[0] == proof.rpartition(".")[0], "only the counter may differ, where it solves it too"


def test_the_length_is_bounded():
    proof = proof_for()
    longest = proof.rpartition(".")[0] + "." + "9" * 20
    assert len(longest) <= PROOF_CHARACTERS_MAX
    assert problem_of(longest) == ProofProblem.UNSOLVED
    assert problem_of(longest + "9") == ProofProblem.MALFORMED
    assert problem_of(proof + "\n") == ProofProblem.MALFORMED
    assert problem_of(proof.rpartition(".")[0] + ".007") == ProofProblem.MALFORMED


def test_what_was_not_worked_for_is_no_proof():
    challenge = issue(KEY, "ann", 20, NOW_NS, SEED)
    assert problem_of(f"{challenge}.0") == ProofProblem.UNSOLVED
    assert solve(challenge, hashes_max=5) is None


@pytest.mark.parametrize(
    ("later_ns", "problem"),
    [
        (0, None),
        (2 * WINDOW_NS - 6, None),
        (2 * WINDOW_NS - 5, ProofProblem.EXPIRED),
        (-6, ProofProblem.EXPIRED),
    ],
)
def test_a_proof_is_good_in_its_window_and_the_next(later_ns, problem):
    proof = proof_for()
    if problem is None:
        check(KEY, "ann", proof, 8, NOW_NS + later_ns)
    else:
        assert problem_of(proof, now_ns=NOW_NS + later_ns) == problem


def test_each_proof_is_taken_once_with_whatever_counter():
    toll = Toll(KEY)
    proof = proof_for()
    toll.take("ann", proof, 8, NOW_NS)
    stamp, _, counter = proof.rpartition(".")
    other = next(
        text
        for text in (f"{stamp}.{n}" for n in range(int(counter) + 1, 100_000))
        if zero_bits(hashlib.sha256(text.encode()).digest()) >= 8
    )
    for again in (proof, other):
        with pytest.raises(ProofInvalid, match="replayed"):
            toll.take("ann", again, 8, NOW_NS + WINDOW_NS)


def test_what_was_taken_is_remembered_as_long_as_it_counts_and_no_longer():
    toll = Toll(KEY, taken_max=2)
    for number in range(2):
        toll.take("ann", proof_for(seed=bytes([number]) * 16), 8, NOW_NS)
    with pytest.raises(ProofInvalid, match="full"):
        toll.take("ann", proof_for(seed=b"x" * 16), 8, NOW_NS)
    assert toll.taken == 2
    later_ns = NOW_NS + 2 * WINDOW_NS
    toll.take("ann", proof_for(seed=b"y" * 16, now_ns=later_ns), 8, later_ns)
    assert toll.taken == 1


def test_a_proof_that_is_not_taken_leaves_nothing_behind():
    toll = Toll(KEY)
    for _ in range(100):
        with pytest.raises(ProofInvalid):
            toll.take("ann", proof_for("bob"), 8, NOW_NS)
    assert toll.taken == 0


def test_difficulty_grows_with_debt_and_rows_up_to_its_bound():
    rule = Difficulty(bits=16, bits_max=20, days_per_bit=0.5)
    assert [rule.bits_for(days) for days in (-1.0, 0.0, 0.49, 0.5, 1.0, 2.0, 9.0, 1e12)] == [
        16,
        16,
        16,
        17,
        18,
        20,
        20,
        20,
    ]
    assert [rule.bits_for(0.0, rows) for rows in (0, 1, 2, 3, 4, 5, 1024, 10**9)] == [16, 16, 17, 18, 18, 19, 26, 32]


@pytest.mark.parametrize(
    "fields",
    [{"bits": 7}, {"bits": 20, "bits_max": 19}, {"bits_max": 33}, {"days_per_bit": 0.0}, {"days_per_bit": 999}],
)
def test_a_difficulty_out_of_its_limits_is_refused(fields):
    with pytest.raises(RuleInvalid):
        Difficulty(**fields)


@pytest.mark.parametrize("spoiled", [{"key": b"short"}, {"seed": b"short"}, {"bits": 7}, {"bits": 33}])
def test_a_challenge_out_of_its_limits_is_not_issued(spoiled):
    fields = {"key": KEY, "principal": "ann", "bits": 8, "now_ns": NOW_NS, "seed": SEED} | spoiled
    with pytest.raises(RuleInvalid):
        issue(**fields)


def test_names_and_stamps_do_not_run_into_each_other():
    one = issue(KEY, "ann", 8, NOW_NS, SEED).rpartition(".")[2]
    assert one != issue(KEY, "ann1", 8, NOW_NS, SEED).rpartition(".")[2]
    assert problem_of(proof_for("ann"), principal="") == ProofProblem.FORGED


def test_zero_bits():
    assert zero_bits(b"\xff\x00") == 0
    assert zero_bits(b"\x00\x0f") == 12
    assert zero_bits(b"\x00\x00") == 16
