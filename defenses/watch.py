"""What one process remembers of who asked what of one model version, and what that says about them.

A watch holds a window of each tenant's last queries (`evasion.window`), the evidence against each principal (`account`)
and who moves with whom (`groups`). Rules:

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

from defenses.account import GAPS, ONE_BALL, REPEAT_BETS, Account, Bet, EProcess, context_of, since, tails_of
from defenses.archive import Archive
from defenses.calibration import digest_arrays
from defenses.errors import CalibrationInvalid
from defenses.evasion import direction, returns, similarity
from defenses.evasion.direction import Direction, Motion
from defenses.evasion.lookup import Turn, lookups
from defenses.evasion.returns import SLOW, Returns
from defenses.evasion.similarity import Codes, Fingerprint, flatten
from defenses.evasion.window import ANCHORS_MAX, WHO_BITS, Asked, Window, query_of
from defenses.groups import HOT, LEND, Groups, HotAnchors
from defenses.kept_answers import KeptAnswers
from defenses.observed import AccountView, Asker, Observed
from defenses.watch_state import restore, seed_of, snapshot

__all__ = ["BOUNDS", "BOUNDS_SHAPE", "AccountView", "Asker", "Observed", "Watch"]

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


class _Met(NamedTuple):
    """What became of a row: the anchor whose answer it gets, the outcomes of both bets (None: not bet on)."""

    anchor: int | None = None
    outcome: int | None = None
    motion: tuple[int, int] | None = None  # context, bin
    hot: tuple[int, int] | None = None  # the anchor that unites who repeats it, and how often it was repeated before
    returned: bool | None = None


@dataclass(slots=True, eq=False)
class Watch:
    """Build it with `from_calibration`."""

    fingerprint: Fingerprint
    bet: Bet
    tails: Mapping[str, list[list[float]]]  # by context and outcome: p-value of that outcome or a rarer one
    direction: Direction
    returns: Returns | None
    digests: Mapping[str, str]
    kept: KeptAnswers
    archive: Archive
    hot: HotAnchors
    accounts_max: int
    windows_bytes_max: int
    key: bytes = field(repr=False)
    groups: Groups = field(default_factory=lambda: Groups(len(REPEAT_BETS)))
    known: OrderedDict[str, Account] = field(default_factory=OrderedDict)
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
        return cls(
            fingerprint=fingerprint,
            bet=Bet.against(bounds, REPEAT_BETS),
            tails={similarity.NAME: tails_of(bounds).tolist(), direction.NAME: moves.tails.tolist()},
            direction=moves,
            returns=Returns.from_calibration(own[0]),
            digests={prefix: digest_arrays(_ALGORITHM, part) for prefix, part in zip(prefixes, own, strict=True)},
            kept=KeptAnswers(answer_names),
            archive=Archive(key),
            hot=HotAnchors.new(fingerprint.cells),
            accounts_max=accounts_max,
            windows_bytes_max=windows_bytes_max,
            key=key,
        )

    @property
    def slow(self) -> int:
        """Return how many places of a window give way more slowly: none where returns are not bet on."""
        return 0 if self.returns is None else SLOW

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
        if self.returns is not None:
            outcomes[returns.NAME] = [NO_BET] * rows
        log_evidence: list[float] = []
        anchors: dict[int, Mapping[str, NDArray[Any]]] = {}
        first = starts.tolist()
        requests = list(zip(askers, first, [*first[1:], rows], strict=True))
        turns = self._turns(requests, units, answers.shape[1])
        for asker, start, end in requests:
            account, window = self._account(asker, now_ns), self._window(asker.tenant, answers.shape[1])
            before, who = window.capacity, self._who(asker.principal)
            for row, turn in zip(range(start, end), turns[asker.tenant], strict=False):
                met = self._meet(asker, account, window, _Row(turn, query_of(exact[row], who), answers[row]))
                if met.anchor is not None:
                    anchors[row] = self.kept.unpack(window.answers[met.anchor])
                for name, (context, outcome) in self._bets(asker, account, window, met):
                    outcomes[name][row] = context, outcome
                    if name in p_values:
                        p_values[name][row] = self.tails[name][context][outcome]
                log_evidence.append(self.evidence_of(asker.principal, account))
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

    def evidence_of(self, principal: str, account: Account) -> float:
        """Return the evidence against an account: its own, or its group's as far as that is lent."""
        own, group = account.log_evidence, self.groups.of(principal)
        if group is None:
            return own
        return max(own, min(group.evidence.log_evidence, own + LEND))

    def group_of(self, principal: str) -> str:
        """Return the name of the group a principal belongs to: its own while it moves alone."""
        group = self.groups.of(principal)
        return principal if group is None else group.members[0]

    def accounts(self) -> Iterator[AccountView]:
        """Return all accounts that are remembered, the least recently seen first."""
        for name, one in self.known.items():
            evidence = self.evidence_of(name, one)
            group = self.group_of(name)
            yield AccountView(name, one.tenant, group, one.queries, one.repeats, evidence, one.seen_ns)

    def forgive(self, principal: str) -> None:
        """Forget the evidence against a principal: an operator found it innocent. What it asked stays remembered."""
        self.archive.take(principal)
        self.groups.leave(principal)
        account = self.known.get(principal)
        if account is not None:
            account.repeating, account.moving, account.motion = EProcess(len(REPEAT_BETS)), None, None
            account.returning = None
            account.since_repeat, account.repeats = GAPS[-1], 0

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

    def _meet(self, asker: Asker, account: Account, window: Window, row: _Row) -> _Met:
        """Remember a row, and return what it repeats."""
        account.queries += 1
        asked, inside = window.asked(row.query), row.turn.inside()
        its = [at for at in inside if self._together(window.askers[at], asker.principal)]
        own = its[0] if its else None
        if asked is Asked.BEFORE and its:
            return _Met(own)
        if asked is not Asked.NEW:
            inside = its
        outcome, motion, hot, code = 0, None, None, row.turn.code
        returned = self._returned(window, own, inside, code)
        if inside:
            account.repeats += 1
            at = max(inside, key=window.visits.__getitem__)
            motion = self._move(account, asker.tenant, window, at, code)
            visits = window.repeat(at)
            outcome = 1 + sum(visits >= step for step in VISITS)
            hot = (at, visits) if visits >= HOT else None
        if own is None:  # close to what somebody else asked: it gets an answer, and an anchor, of its own
            row.turn.became(window.remember(code, asker.principal, row.answer, row.query))
        else:
            window.pass_by(row.query)
        return _Met(own, outcome, motion, hot, returned)

    def _who(self, principal: str) -> int:
        """Return what a window keeps of who asked: WHO_BITS that nobody outside can foresee."""
        digest = blake2b(principal.encode(), digest_size=WHO_BITS // 8, key=self.key, person=b"watch asker")
        return int.from_bytes(digest.digest(), "big")

    def _returned(self, window: Window, own: int | None, inside: list[int], code: Codes) -> bool | None:
        """Return whether an account returned to what is its own, or its group's; None where there is no bet on it."""
        if self.returns is None or window.size < ANCHORS_MAX:
            return None
        return own is not None and window.returned(inside, code, self.fingerprint)

    def _together(self, one: str, other: str) -> bool:
        group = self.groups.of(other)
        return one == other or (group is not None and group is self.groups.of(one))

    def _bets(self, asker: Asker, account: Account, window: Window, met: _Met) -> Iterator[tuple[str, tuple[int, int]]]:
        """Take what became of a row as evidence; yield each screen's context and outcome."""
        if met.outcome is not None:
            yield similarity.NAME, self._bet(asker.principal, account, met.outcome)
        if met.motion is not None:
            yield direction.NAME, met.motion
        if met.returned is not None and self.returns is not None:
            if account.returning is None:
                account.returning = EProcess(returns.BETS)
            account.returning.update(self.returns.log_e[met.returned])
            yield returns.NAME, (0, int(met.returned))
        if met.hot is not None:
            self._join(asker, window, *met.hot)

    def _bet(self, principal: str, account: Account, outcome: int) -> tuple[int, int]:
        """Take an outcome as evidence against an account and its group; return its context with it."""
        context = context_of(account.since_repeat)
        account.repeating.update(self.bet.pays[context][outcome])
        account.since_repeat = since(account.since_repeat, outcome)
        group = self.groups.of(principal)
        if group is not None:
            group.evidence.update(self.bet.pays[context_of(group.since_repeat)][outcome])
            group.since_repeat = since(group.since_repeat, outcome)
        return context, outcome

    def _move(self, account: Account, tenant: str, window: Window, at: int, code: Codes) -> tuple[int, int] | None:
        """Take the direction of a repeat as evidence; return its context and bin, None where there is none yet."""
        ball, step = (tenant, at), direction.step_of(code, window.codes[:, at])
        last, account.motion = account.motion, Motion(ball, step)
        if last is None or last.ball != ball:
            return None
        found = direction.bin_of(last.step, step)
        if found is None:
            return None
        account.motion.bin = found[1]
        if account.moving is None:
            account.moving = EProcess(direction.BETS)
        account.moving.update(self.direction.log_e[:, last.bin, found[0]].tolist())
        return last.bin, found[0]

    def _join(self, asker: Asker, window: Window, at: int, visits: int) -> None:
        """Make one group of those who repeat the same hot anchor, or hot anchors in one ball."""
        fellows = [window.askers[at]]
        if visits.bit_count() == 1:  # 4, 8, 16, ...: seldom, since this looks at all tenants
            tolerance, allowed = self.fingerprint.tolerances[0], self.fingerprint.allowed[0]
            fellows += self.hot.met(window.codes[:, at].copy(), asker.tenant, asker.principal, tolerance, allowed)
        for name in fellows:
            if name in self.known:
                self.groups.unite(asker.principal, name)

    def _account(self, asker: Asker, now_ns: int) -> Account:
        name = asker.principal
        account = self.known.get(name)
        if account is None:
            account = self.known[name] = Account(asker.tenant, EProcess(len(REPEAT_BETS)))
            kept = self.archive.take(name)
            if kept is not None:
                account.repeating.steps, account.repeating.logs = kept.steps, [kept.log_evidence] * len(REPEAT_BETS)
        self.known.move_to_end(name)
        account.seen_ns = max(account.seen_ns, now_ns)
        return account

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
        while len(self.known) > self.accounts_max:
            name, account = self.known.popitem(last=False)
            # Its own: what its group lent it would be lent once more when it is back.
            self.archive.put(name, account.log_evidence, account.repeating.steps)
            self.groups.leave(name)
        while self.windows_bytes > self.windows_bytes_max and len(self.windows) > 1:
            self.windows_bytes -= self.windows.popitem(last=False)[1].nbytes
