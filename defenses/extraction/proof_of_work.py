"""Proofs of work: what an account that is far beyond its budget pays with, so that stealing costs more than asking.

A challenge is text that we sign and do not keep (hashcash with the server's stamp; Back 2002):
    1.<window>.<bits>.<seed>.<mac>
window is the number of the period of WINDOW_NS it was issued in, seed 16 random bytes, mac HMAC-SHA-256 under the
host's key over all of that and over whom it is for. A proof is a challenge with a counter, such that SHA-256 of the
whole text begins with `bits` zero bits:
    <challenge>.<counter>

Rules:
- Checking costs one HMAC and one SHA-256 of at most PROOF_CHARACTERS_MAX characters, whatever was sent, and everything
  that is wrong is ProofInvalid with its problem.
- A challenge is good in its window and in the next one. It is worth one request: `Toll` remembers what was taken, for
  those two windows and no longer, up to `taken_max`; when that is full nothing is taken until the window turns.
- The key must not outlive that memory: a process that starts draws a new one, and none is shared between processes, so
  that a proof cannot be spent in each of them.
- It is for one principal, at the difficulty it names: where more is wanted by then, it is too easy.

What the work is worth: an attacker's machine may hash a thousand times faster than a client in Python. The difficulty
grows with the debt for that reason, and docs/explanation/defenses.md gives both sides in seconds.

See Dziedzic et al. 2022, "Increasing the Cost of Model Extraction with Calibrated Proof of Work" (arXiv 2201.09243).
Pure but for the memory of `Toll`: time, key and seed are arguments.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from defenses.errors import ProofInvalid, RuleInvalid

WINDOW_NS: Final = 60 * 1_000_000_000
BITS_MIN, BITS_MAX = 8, 32
SEED_BYTES: Final = 16
KEY_BYTES_MIN: Final = 16
TAKEN_MAX: Final = 65_536
PROOF_CHARACTERS_MAX: Final = 160
HASHES_MAX: Final = 1 << 26  # that a client tries before it gives up, unless it says otherwise

_COUNTER_DIGITS_MAX = 20
_PROOF = re.compile(
    r"(1\.(0|[1-9][0-9]{0,11})\.([1-9][0-9]?)\.[0-9a-f]{32})\.([0-9a-f]{64})\.((?:0|[1-9][0-9]{0,19}))", re.ASCII
)
_CHALLENGE = re.compile(r"1\.(?:0|[1-9][0-9]{0,11})\.([1-9][0-9]?)\.[0-9a-f]{32}\.[0-9a-f]{64}", re.ASCII)


class ProofProblem(StrEnum):
    """What is wrong with a proof."""

    MALFORMED = "malformed"
    FORGED = "forged"  # not ours, altered, or for somebody else
    EXPIRED = "expired"  # or of a window that has not come
    TOO_EASY = "too easy"
    UNSOLVED = "unsolved"
    REPLAYED = "replayed"
    FULL = "full"  # too many were taken to remember one more


@dataclass(frozen=True, slots=True)
class Checked:
    """A proof that holds, as far as can be said without a memory: its window and what tells it from others."""

    window: int
    mark: bytes


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How many zero bits a request must show. One more for each `days_per_bit` of debt beyond the start of this step.

    A request of several rows needs as many more as doubling its rows asks for.
    """

    bits: int = 16
    bits_max: int = 24
    days_per_bit: float = 0.03125

    def __post_init__(self) -> None:
        if not BITS_MIN <= self.bits <= self.bits_max <= BITS_MAX:
            raise RuleInvalid("bits", f"not {BITS_MIN} <= {self.bits} <= {self.bits_max} <= {BITS_MAX}")
        if not 0.001 <= self.days_per_bit <= 365.0:
            raise RuleInvalid("days_per_bit", f"{self.days_per_bit}: outside [0.001, 365]")

    def bits_for(self, days_beyond: float, rows: int = 1) -> int:
        """Return the bits for a debt so many days beyond the start of the step, BITS_MAX at most."""
        grown = self.bits + int(max(0.0, min(days_beyond, 365.0)) / self.days_per_bit)
        return min(min(grown, self.bits_max) + max(0, rows - 1).bit_length(), BITS_MAX)


def issue(key: bytes, principal: str, bits: int, now_ns: int, seed: bytes) -> str:
    """Return a challenge for a principal. RuleInvalid for a short key, another length of seed, or bits out of range."""
    if len(key) < KEY_BYTES_MIN:
        raise RuleInvalid("key", f"{len(key)} bytes; {KEY_BYTES_MIN} or more wanted")
    if len(seed) != SEED_BYTES:
        raise RuleInvalid("seed", f"{len(seed)} bytes; {SEED_BYTES} wanted")
    if not BITS_MIN <= bits <= BITS_MAX:
        raise RuleInvalid("bits", f"{bits}: outside [{BITS_MIN}, {BITS_MAX}]")
    stamp = f"1.{window_of(now_ns)}.{bits}.{seed.hex()}"
    return f"{stamp}.{_mac(key, principal, stamp)}"


def check(key: bytes, principal: str, proof: str, bits_min: int, now_ns: int) -> Checked:
    """Check a proof without a memory; ProofInvalid says what is wrong with it."""
    match = _PROOF.fullmatch(proof) if len(proof) <= PROOF_CHARACTERS_MAX else None
    if match is None:
        raise ProofInvalid(ProofProblem.MALFORMED)
    stamp, window, bits, mac, _ = match.groups()
    if not hmac.compare_digest(_mac(key, principal, stamp), mac):
        raise ProofInvalid(ProofProblem.FORGED)
    if not 0 <= window_of(now_ns) - int(window) <= 1:
        raise ProofInvalid(ProofProblem.EXPIRED)
    if int(bits) < bits_min:
        raise ProofInvalid(ProofProblem.TOO_EASY)
    if zero_bits(hashlib.sha256(proof.encode()).digest()) < int(bits):
        raise ProofInvalid(ProofProblem.UNSOLVED)
    return Checked(int(window), bytes.fromhex(mac)[:SEED_BYTES])


class Toll:
    """Asks for proofs and takes each once. Not for several threads: one per process, used on its event loop."""

    def __init__(self, key: bytes, *, taken_max: int = TAKEN_MAX) -> None:
        self._key = key
        self._taken_max = taken_max
        self._taken: dict[int, set[bytes]] = {}

    @property
    def taken(self) -> int:
        """How many proofs are remembered."""
        return sum(map(len, self._taken.values()))

    def ask(self, principal: str, bits: int, now_ns: int, seed: bytes) -> str:
        """Return a challenge; nothing is remembered of it."""
        return issue(self._key, principal, bits, now_ns, seed)

    def take(self, principal: str, proof: str, bits_min: int, now_ns: int) -> None:
        """Take a proof, or raise ProofInvalid. Another counter for the same challenge is the same proof again."""
        checked = check(self._key, principal, proof, bits_min, now_ns)
        for window in [old for old in self._taken if old < window_of(now_ns) - 1]:
            del self._taken[window]
        taken = self._taken.setdefault(checked.window, set())
        if checked.mark in taken:
            raise ProofInvalid(ProofProblem.REPLAYED)
        if self.taken >= self._taken_max:
            raise ProofInvalid(ProofProblem.FULL)
        taken.add(checked.mark)


def solve(challenge: str, *, hashes_max: int = HASHES_MAX) -> str | None:
    """Return a proof for a challenge: the client's side. None when it is no challenge, or not solved in that many."""
    match = _CHALLENGE.fullmatch(challenge) if len(challenge) < PROOF_CHARACTERS_MAX else None
    if match is None:
        return None
    bits = int(match[1])
    start = hashlib.sha256(f"{challenge}.".encode())
    for counter in range(min(hashes_max, 10**_COUNTER_DIGITS_MAX)):
        tried = start.copy()
        tried.update(str(counter).encode())
        if zero_bits(tried.digest()) >= bits:
            return f"{challenge}.{counter}"
    return None


def window_of(now_ns: int) -> int:
    """Return the number of the window of a moment."""
    return max(0, now_ns) // WINDOW_NS


def zero_bits(digest: bytes) -> int:
    """Return how many bits of a digest are zero before the first that is not."""
    return len(digest) * 8 - int.from_bytes(digest, "big").bit_length()


def _mac(key: bytes, principal: str, stamp: str) -> str:
    name = principal.encode("utf-8", "surrogatepass")
    framed = len(name).to_bytes(4, "big") + name + stamp.encode()  # no name and stamp make another pair's bytes
    return hmac.new(key, framed, hashlib.sha256).hexdigest()
