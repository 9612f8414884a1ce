"""RFC 6962 Merkle trees: hashing, the frontier of a growing tree, proofs and their verification.

Pure. Sizes and indexes are integers, hashes are 32 bytes. A *node* (height, index) is the complete subtree over the
leaves [index << height, (index + 1) << height); such nodes never change once they exist, so proofs are made from a
function `node(height, index) -> hash`. Proofs are lists of hashes in the order of RFC 9162, sections 2.1.3 and 2.1.4.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from ops.audit.errors import ProofError

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

Node = Callable[[int, int], bytes]

# Copied where there are many to hash: OpenSSL looks an algorithm up each time one is begun.
_LEAF = sha256(b"\x00")
_NODE = sha256(b"\x01")


def leaf_hash(entry: bytes) -> bytes:
    """H(0x00 || entry)."""
    return sha256(b"\x00" + entry).digest()


def leaf_hashes(entries: Iterable[bytes | memoryview]) -> list[bytes]:
    """`leaf_hash` of each."""
    hashes: list[bytes] = []
    for entry in entries:
        state = _LEAF.copy()
        state.update(entry)
        hashes.append(state.digest())
    return hashes


def node_hash(left: bytes, right: bytes) -> bytes:
    """H(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def _node_hashes(pairs: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """`node_hash` of each pair."""
    hashes: list[bytes] = []
    for left, right in pairs:
        state = _NODE.copy()
        state.update(left + right)
        hashes.append(state.digest())
    return hashes


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root of a complete subtree over 2^n hashes of one level."""
    row = hashes
    while len(row) > 1:
        row = _node_hashes(zip(row[::2], row[1::2], strict=True))
    return row[0]


class Frontier:
    """The compact range [0, size): one complete subtree for each set bit of the size, and nothing else.

    Enough to append and to know the root; 32 bytes for each of at most 63 heights.
    """

    __slots__ = ("_nodes", "size")

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[bytes | None] = []  # by height; None where the size has no bit

    @classmethod
    def restore(cls, size: int, hashes: Sequence[bytes]) -> "Frontier":
        """The inverse of `hashes()`.

        Raises:
            ProofError: when their number does not fit the size.
        """
        if size.bit_count() != len(hashes) or any(len(each) != HASH_BYTES for each in hashes):
            raise ProofError(f"{len(hashes)} hashes do not make a frontier of size {size}")
        frontier = cls()
        frontier.size = size
        given = iter(hashes)
        frontier._nodes = [next(given) if size >> height & 1 else None for height in range(size.bit_length())]
        return frontier

    def copy(self) -> "Frontier":
        return Frontier.restore(self.size, self.hashes())

    def hashes(self) -> list[bytes]:
        """The subtrees, lowest first."""
        return [node for node in self._nodes if node is not None]

    def extend(self, leaves: Iterable[bytes]) -> list[list[bytes]]:
        """Append leaf hashes. Returns the nodes that became complete, by height (height 0 = the leaves themselves)."""
        row = list(leaves)
        self.size += len(row)
        grown: list[list[bytes]] = []
        height = 0
        while row:
            grown.append(row)
            if height == len(self._nodes):
                self._nodes.append(None)
            waiting = self._nodes[height]
            pairs = row if waiting is None else [waiting, *row]
            self._nodes[height] = pairs[-1] if len(pairs) & 1 else None
            row = _node_hashes(zip(pairs[::2], pairs[1::2], strict=False))
            height += 1
        return grown

    def root(self) -> bytes:
        """The tree head: the subtrees folded from the smallest up."""
        root: bytes | None = None
        for node in self._nodes:
            if node is not None:
                root = node if root is None else sha256(b"\x01" + node + root).digest()
        return EMPTY_ROOT if root is None else root


def tree_root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


def range_root(first: int, end: int, node: Node) -> bytes:
    """MTH of the leaves [first, end), where `first` is a multiple of the largest power of two not above the length."""
    subtrees: list[bytes] = []
    position = first
    while position < end:
        height = (end - position).bit_length() - 1
        subtrees.append(node(height, position >> height))
        position += 1 << height
    root = subtrees.pop()
    while subtrees:
        root = node_hash(subtrees.pop(), root)
    return root


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """PATH(index, D[size]), leaf to root.

    Raises:
        ProofError: unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ProofError(f"index {index} is not in a tree of size {size}")
    path: list[bytes] = []
    first, end = 0, size
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            path.append(range_root(middle, end, node))
            end = middle
        else:
            path.append(range_root(first, middle, node))
            first = middle
    path.reverse()
    return path


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """PROOF(old, D[new]); empty when there is nothing to prove (old is 0 or equals new).

    Raises:
        ProofError: unless 0 <= old <= new.
    """
    if not 0 <= old <= new:
        raise ProofError(f"no consistency from size {old} to size {new}")
    if old in (0, new):
        return []
    path: list[bytes] = []
    first, end = 0, new
    whole = True  # the old tree is the complete subtree in view, whose root the verifier knows
    while end != old:
        middle = first + _split(end - first)
        if old <= middle:
            path.append(range_root(middle, end, node))
            end = middle
        else:
            path.append(range_root(first, middle, node))
            first = middle
            whole = False
    if not whole:
        path.append(range_root(first, end, node))
    path.reverse()
    return path


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """RFC 9162, section 2.1.3.2.

    Raises:
        ProofError: unless the proof shows the leaf hash at `index` of the tree with this size and root.
    """
    if not 0 <= index < size:
        raise ProofError(f"index {index} is not in a tree of size {size}")
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        node >>= 1
        last >>= 1
    if last or computed != root:
        raise ProofError("the inclusion proof does not lead to the root")


def verify_consistency(  # noqa: C901 (one algorithm of the RFC, kept in one piece to be compared with it)
    old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """RFC 9162, section 2.1.4.2, with its trivial cases: from nothing, and to itself.

    Raises:
        ProofError: unless the proof shows that the new tree extends the old one.
    """
    if not 0 <= old <= new:
        raise ProofError(f"size {new} does not extend size {old}")
    if old in (0, new):
        expected = EMPTY_ROOT if old == 0 else new_root
        if proof or old_root != expected:
            raise ProofError(f"the roots of size {old} differ")
        return
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise ProofError("the consistency proof is empty")
    node, last = old - 1, new - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old_computed = new_computed = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if node & 1 or node == last:
            old_computed = node_hash(sibling, old_computed)
            new_computed = node_hash(sibling, new_computed)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new_computed = node_hash(new_computed, sibling)
        node >>= 1
        last >>= 1
    if last or old_computed != old_root or new_computed != new_root:
        raise ProofError("the consistency proof does not join the two roots")
