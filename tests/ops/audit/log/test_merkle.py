"""Trees and proofs against RFC 6962's recursion, written out here a second time."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import ProofError
from ops.audit.log import merkle
from tests.ops.audit.vectors import vector

LEAVES = [merkle.leaf_hash(b"%d" % n) for n in range(300)]


def mth(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def node(height: int, index: int) -> bytes:
    return mth(LEAVES[index << height : (index + 1) << height])


def test_known_roots():
    known = vector("rfc6962")
    leaves = [merkle.leaf_hash(bytes.fromhex(each)) for each in known["leaves"]]
    assert merkle.EMPTY_ROOT.hex() == merkle.tree_root([]).hex() == known["empty"]
    assert [merkle.tree_root(leaves[:n]).hex() for n in range(1, 9)] == known["roots"]


def test_known_consistency_proofs():
    known = vector("rfc6962")
    roots = [bytes.fromhex(each) for each in known["roots"]]
    for case in known["consistency"]:
        proof = [bytes.fromhex(each) for each in case["proof"]]
        merkle.verify_consistency(case["old"], case["new"], proof, roots[case["old"] - 1], roots[case["new"] - 1])


@given(st.lists(st.integers(0, 70), max_size=6))
def test_a_frontier_grown_in_any_steps_has_the_root_of_the_whole(steps):
    frontier = merkle.Frontier()
    start = 0
    for wanted in steps:
        step = min(wanted, len(LEAVES) - start)
        grown = frontier.extend(LEAVES[start : start + step])
        for height, row in enumerate(grown):
            first = start >> height
            assert row == [node(height, first + at) for at in range(len(row))]
            assert first + len(row) == (start + step) >> height
        start += step
        assert frontier.root() == mth(LEAVES[:start])
        assert merkle.Frontier.restore(start, frontier.hashes()).root() == frontier.root()


@given(st.integers(0, 300), st.lists(st.binary(min_size=31, max_size=33), max_size=9))
def test_a_frontier_is_restored_only_from_as_many_hashes_as_its_size_has_bits(size, hashes):
    if len(hashes) == size.bit_count() and all(len(each) == 32 for each in hashes):
        assert merkle.Frontier.restore(size, hashes).hashes() == hashes
    else:
        with pytest.raises(ProofError):
            merkle.Frontier.restore(size, hashes)


@given(st.integers(1, 300).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))), st.data())
def test_inclusion_proofs_prove_their_leaf_and_nothing_else(place, data):
    index, size = place
    root = mth(LEAVES[:size])
    proof = merkle.inclusion_proof(index, size, node)
    merkle.verify_inclusion(LEAVES[index], index, size, proof, root)
    wrong = data.draw(st.integers(0, size - 1).filter(lambda each: each != index)) if size > 1 else None
    if wrong is not None:
        with pytest.raises(ProofError):
            merkle.verify_inclusion(LEAVES[wrong], index, size, proof, root)
        with pytest.raises(ProofError):
            merkle.verify_inclusion(LEAVES[index], index, size, proof[:-1], root)
    with pytest.raises(ProofError):
        merkle.verify_inclusion(LEAVES[index], index, size, [*proof, root], root)


@given(
    st.integers(0, 300).flatmap(lambda new: st.tuples(st.integers(0, new), st.just(new))),
    st.binary(min_size=32, max_size=32),
)
def test_consistency_proofs_join_exactly_two_trees(sizes, other):
    old, new = sizes
    old_root, new_root = mth(LEAVES[:old]), mth(LEAVES[:new])
    proof = merkle.consistency_proof(old, new, node)
    merkle.verify_consistency(old, new, proof, old_root, new_root)
    with pytest.raises(ProofError):
        merkle.verify_consistency(old, new, proof, other, new_root)
    if old:
        with pytest.raises(ProofError):
            merkle.verify_consistency(old, new, proof, old_root, other)
    with pytest.raises(ProofError):
        merkle.verify_consistency(old, new, [*proof, other], old_root, new_root)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 5), (5, 5)])
def test_no_inclusion_outside_the_tree(index, size):
    with pytest.raises(ProofError):
        merkle.inclusion_proof(index, size, node)
    with pytest.raises(ProofError):
        merkle.verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])


def test_no_consistency_backwards():
    with pytest.raises(ProofError):
        merkle.consistency_proof(5, 4, node)
    with pytest.raises(ProofError):
        merkle.verify_consistency(5, 4, [], LEAVES[0], LEAVES[0])
