"""What one process remembers of who asked what of one model version, and what that says about them.

A watch holds a window of each tenant's last queries (`evasion.window`), and the evidence against each principal and who
moves with whom (`known`). Rules:

- It scores and remembers; it decides nothing, and it learns nothing: bounds and balls are the bundle's, whoever asks.
- Every query that reached the model is remembered, an attack's too: that is the evidence. It changes no calibration.
- A query that its principal asked before, bit for bit, is no evidence and counts for nothing where it gets its earlier
  answer: a client that polls, tries again or does its work once more is no attacker, and learns nothing new.
- A query that only others of the tenant asked, bit for bit, is held against the principal's own alone, as if the others
  were not there: who sends what somebody else sends is no attacker, and who reads a search that another asks is one.
- Consistent answers: a repeat comes with the outputs that its anchor was given, so that a search sees a constant.
  Only the account's own answers and its group's: nobody can pin an answer for another. An output that was not kept is
  not in it, and whoever answers leaves that output out (or zero): it would tell of the query itself.
- Evidence does not depend on time, so waiting helps nobody. `now_ns` says when an account was seen, no more.
- Everything is bounded: windows by bytes, accounts by number; the least recently seen gives way. Evidence of accounts
  that give way goes to an archive (`archive`), where only its owner finds it again.

Not thread-safe: one for each model version in a process. No IO, no clock.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from defenses.accounts import direction, returns, similarity
from defenses.accounts.account import GAPS, ONE_BALL, REPEAT_BETS, Account, Bet, tails_of
from defenses.accounts.archive import Archive
from defenses.accounts.direction import Direction
from defenses.accounts.groups import HOT, HotAnchors
from defenses.accounts.kept_answers import KeptAnswers
from defenses.accounts.known import Known, Met
from defenses.accounts.lookup import Turn, lookups
from defenses.accounts.observed import AccountView, Asker, Observed
from defenses.accounts.returns import SLOW, Returns
from defenses.accounts.similarity import Codes, Fingerprint, flatten
from defenses.accounts.watch_state import restore, seed_of, snapshot
from defenses.accounts.window import ANCHORS_MAX, WHO_BITS, Asked, Window, query_of
from defenses.budget.calibration import digest_arrays
from defenses.errors import CalibrationInvalid

ACCOUNTS_MAX: Final = 100_000
WINDOWS_BYTES_MAX: Final = 64 * 1024 * 1024
VISITS: Final = (1, 2, 4, 8)  # earlier repeats of the anchor from which the next outcome holds
BOUNDS_SHAPE: Final = (len(GAPS) + 1, len(ONE_BALL) + 1)  # contexts; any repeat, and each outcome of one
BOUNDS: Final = f"{similarity.NAME}.bounds"

NO_BET: Final = (-1, -1)  # context and outcome

_ALGORITHM = "stockade.watch/1"


class _Row(NamedTuple):
    turn: Turn
    query: int
    answer: Codes  # (bytes,)


@dataclass(slots=True, eq=False)
class Watch:
    """Build it with `from_calibration`."""

    fingerprint: Fingerprint
    known: Known
    tails: Mapping[str, list[list[float]]]  # by context and outcome: p-value of that outcome or a rarer one
    digests: Mapping[str, str]
    kept: KeptAnswers
    windows_bytes_max: int
    key: bytes = field(repr=False)
    windows: OrderedDict[str, Window] = field(default_factory=OrderedDict)
    windows_bytes: int = 0

    @classmethod
    def from_calibration(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        *,
        key: bytes,
        answer_names: frozenset[str] = frozenset({"probabilities"}),
        accounts_max: int = ACCOUNTS_MAX,
        windows_bytes_max: int = WINDOWS_BYTES_MAX,
    ) -> Self:
        """Read the "similarity.*" and "direction.*" arrays of `fit_watch`; CalibrationInvalid if malformed.

        Args:
            arrays: of the bundle; others are ignored.
            key: 16 to 64 secret bytes, the same as long as a snapshot shall be of use.
            answer_names: outputs that are kept to be given again.
            accounts_max: principals with evidence of their own.
            windows_bytes_max: of all windows together.
        """
        if not 16 <= len(key) <= 64:
            raise CalibrationInvalid("key", f"{len(key)} bytes; 16 to 64 wanted")
        prefixes = (similarity.NAME, direction.NAME)
        own = [{name: a for name, a in arrays.items() if name.startswith(f"{prefix}.")} for prefix in prefixes]
        bounds = own[0].get(BOUNDS)
        if bounds is None or bounds.dtype != np.float64 or bounds.shape != BOUNDS_SHAPE:
            raise CalibrationInvalid(BOUNDS, f"float64 {BOUNDS_SHAPE} wanted")
        fingerprint, moves = Fingerprint.from_calibration(own[0], key), Direction.from_calibration(own[1])
        known = Known(
            bet=Bet.against(bounds, REPEAT_BETS),
            direction=moves,
            returns=Returns.from_calibration(own[0]),
            archive=Archive(key),
            hot=HotAnchors.new(fingerprint.cells),
            ball=(fingerprint.tolerances[0], fingerprint.allowed[0]),
            accounts_max=accounts_max,
        )
        return cls(
            fingerprint=fingerprint,
            known=known,
            tails={similarity.NAME: tails_of(bounds).tolist(), direction.NAME: moves.tails.tolist()},
            digests={prefix: digest_arrays(_ALGORITHM, part) for prefix, part in zip(prefixes, own, strict=True)},
            kept=KeptAnswers(answer_names),
            windows_bytes_max=windows_bytes_max,
            key=key,
        )

    @property
    def slow(self) -> int:
        """Return how many places of a window give way more slowly: none where returns are not bet on."""
        return 0 if self.known.returns is None else SLOW

    @property
    def techniques(self) -> Mapping[str, str]:
        """Return the MITRE ATLAS technique that each stateful screen points at."""
        return {similarity.NAME: similarity.TECHNIQUE, direction.NAME: direction.TECHNIQUE}

    def observe(
        self,
        askers: Sequence[Asker],
        starts: NDArray[np.intp],
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        now_ns: int,
    ) -> Observed:
        """Take a batch that reached the model: one asker a request, `starts` the first row of each.

        Raises:
            EvidenceInvalid: an input or a kept output has another shape than before.
        """
        flat = flatten(inputs)
        units, exact, rows = self.fingerprint.units(flat), self.fingerprint.exact(flat), len(flat)
        answers = self.kept.pack(outputs, rows)
        p_values = {name: [1.0] * rows for name in self.digests}
        outcomes = {name: [NO_BET] * rows for name in self.digests}
        if self.known.returns is not None:
            outcomes[returns.NAME] = [NO_BET] * rows
        log_evidence: list[float] = []
        anchors: dict[int, Mapping[str, NDArray[Any]]] = {}
        first = starts.tolist()
        requests = list(zip(askers, first, [*first[1:], rows], strict=True))
        turns = self._turns(requests, units, answers.shape[1])
        for asker, start, end in requests:
            account, window = self.known.account(asker, now_ns), self._window(asker.tenant, answers.shape[1])
            before, who = window.capacity, self._who(asker.principal)
            for row, turn in zip(range(start, end), turns[asker.tenant], strict=False):
                met = self._meet(asker, account, window, _Row(turn, query_of(exact[row], who), answers[row]))
                if met.anchor is not None:
                    anchors[row] = self.kept.unpack(window.answers[met.anchor])
                for name, (context, outcome) in self.known.take(asker, account, window, met):
                    outcomes[name][row] = context, outcome
                    if name in p_values:
                        p_values[name][row] = self.tails[name][context][outcome]
                log_evidence.append(self.known.evidence_of(asker.principal, account))
            if window.capacity != before:
                self.windows_bytes += window.nbytes - window.nbytes_of(before)
        self._make_room()
        unusual = np.array(list(p_values.values()))
        return Observed(
            dict(zip(p_values, -np.log(unusual), strict=True)),
            dict(zip(p_values, unusual, strict=True)),
            np.array(log_evidence),
            {name: np.array(found, np.int64) for name, found in outcomes.items()},
            anchors,
        )

    def group_of(self, principal: str) -> str:
        """Return the name of the group a principal belongs to: its own while it moves alone."""
        return self.known.group_of(principal)

    def accounts(self) -> Iterator[AccountView]:
        """Return all accounts that are remembered, the least recently seen first."""
        return self.known.views()

    def forgive(self, principal: str) -> None:
        """Forget the evidence against a principal: an operator found it innocent. What it asked stays remembered."""
        self.known.forgive(principal)

    def snapshot(self, lock: AbstractContextManager[Any] | None = None) -> bytes:
        """Return what is remembered, for `restore`; `lock` is what keeps others from observing, held piece by piece."""
        return snapshot(self, nullcontext() if lock is None else lock)

    def restore(self, data: bytes) -> None:
        """Take over what `snapshot` returned; SnapshotInvalid for anything else, and then nothing has changed."""
        restore(self, data)

    def _turns(
        self, requests: Sequence[tuple[Asker, int, int]], units: Codes, answer_bytes: int
    ) -> dict[str, Iterator[Turn]]:
        """Return by tenant the turns of its rows; requests with their first row and the one behind the last."""
        rows: dict[str, list[int]] = {}
        for asker, start, end in requests:
            rows.setdefault(asker.tenant, []).extend(range(start, end))
        return {
            tenant: lookups(self._window(tenant, answer_bytes), units, its, self.fingerprint)
            for tenant, its in rows.items()
        }

    def _meet(self, asker: Asker, account: Account, window: Window, row: _Row) -> Met:
        """Remember a row, and return what it repeats."""
        account.queries += 1
        asked, inside = window.asked(row.query), row.turn.inside()
        its = [at for at in inside if self.known.together(window.askers[at], asker.principal)]
        own = its[0] if its else None
        if asked is Asked.BEFORE and its:
            return Met(own)
        if asked is not Asked.NEW:
            inside = its
        outcome, motion, hot, code = 0, None, None, row.turn.code
        returned = self._returned(window, own, inside, code)
        if inside:
            account.repeats += 1
            at = max(inside, key=window.visits.__getitem__)
            motion = self.known.moved(account, asker.tenant, window, at, code)
            visits = window.repeat(at)
            outcome = 1 + sum(visits >= step for step in VISITS)
            hot = (at, visits) if visits >= HOT else None
        if own is None:  # close to what somebody else asked: it gets an answer, and an anchor, of its own
            row.turn.became(window.remember(code, asker.principal, row.answer, row.query))
        else:
            window.pass_by(row.query)
        return Met(own, outcome, motion, hot, returned)

    def _who(self, principal: str) -> int:
        """Return what a window keeps of who asked: WHO_BITS that nobody outside can foresee."""
        digest = blake2b(principal.encode(), digest_size=WHO_BITS // 8, key=self.key, person=b"watch asker")
        return int.from_bytes(digest.digest(), "big")

    def _returned(self, window: Window, own: int | None, inside: list[int], code: Codes) -> bool | None:
        """Return whether an account returned to what is its own, or its group's; None where there is no bet on it."""
        if self.known.returns is None or window.size < ANCHORS_MAX:
            return None
        return own is not None and window.returned(inside, code, self.fingerprint)

    def _window(self, tenant: str, answer_bytes: int) -> Window:
        window = self.windows.get(tenant)
        if window is None:
            seed = seed_of(self.key, tenant)
            window = self.windows[tenant] = Window.new(self.fingerprint.cells, answer_bytes, seed, self.slow)
            self.windows_bytes += window.nbytes
        self.windows.move_to_end(tenant)
        return window

    def _make_room(self) -> None:
        """Let the least recently seen give way, but never the one just seen."""
        self.known.make_room()
        while self.windows_bytes > self.windows_bytes_max and len(self.windows) > 1:
            self.windows_bytes -= self.windows.popitem(last=False)[1].nbytes
