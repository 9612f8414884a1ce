"""What one process remembers of who asked what of one model version, and what that says about them.

A watch holds a window of each tenant's last queries (`evasion.similarity`) and the evidence against each principal
(`account`). Rules:

- It scores and remembers; it decides nothing, and nothing is learned: bounds and balls are the bundle's, whoever asks.
- Every answered query is remembered, an attack's too: that is the evidence. It never changes a calibration.
- A query that was asked before, bit for bit, is no evidence and counts for nothing: a client that polls is no attacker,
  and who asks the same again learns nothing new.
- Consistent answers: a repeat comes with the outputs that its anchor was given, so that a search sees a constant.
  Never across tenants: nobody can pin an answer for another. An output that was not kept is not in it, and whoever
  answers leaves that output out (or zero): it would tell of the query itself.
- Evidence does not depend on time, so waiting helps nobody. `now_ns` says when an account was seen, no more.
- Everything is bounded: windows by bytes, accounts by number; the least recently seen gives way. Evidence that gives
  way is kept in a sketch, where only its owner finds it again (four keyed cells of 65,536 a slot).

Not thread-safe: one for each model version in a process, used on the event loop. No IO, no clock.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from defenses.account import Bet, EProcess
from defenses.calibration import digest_arrays
from defenses.errors import CalibrationInvalid, EvidenceInvalid
from defenses.evasion import similarity
from defenses.evasion.similarity import Codes, Fingerprint, Window

ACCOUNTS_MAX: Final = 100_000
WINDOWS_BYTES_MAX: Final = 64 * 1024 * 1024
ANSWER_BYTES_MAX: Final = 4_096  # of a row
SHARES: Final = (0.9, 0.5, 0.1)
GAPS: Final = (2, 5)  # queries since the last repeat from which the next context holds
VISITS: Final = (1, 2, 4, 8)  # earlier repeats of the anchor from which the next outcome holds
HOPES: Final = (0.15, 0.1, 0.15, 0.2, 0.4)
BOUNDS: Final = f"{similarity.NAME}.bounds"

_ALGORITHM = "stockade.watch/1"


@dataclass(frozen=True, slots=True)
class Asker:
    principal: str
    tenant: str


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What a batch says about its askers.

    scores, p_values: per stateful screen, float64 (rows,); a higher score is more suspicious.
    log_evidence: float64 (rows,), natural logarithm of the evidence against the asker's group after that row.
    anchors: row -> the outputs, one row each, that were given to the query it repeats; only within a tenant.
    """

    scores: Mapping[str, NDArray[np.float64]]
    p_values: Mapping[str, NDArray[np.float64]]
    log_evidence: NDArray[np.float64]
    anchors: Mapping[int, Mapping[str, NDArray[Any]]]


class AccountView(NamedTuple):
    """An account as an operator sees it; `log_evidence` in natural logarithm, -inf where there is none."""

    principal: str
    tenant: str
    group: str
    queries: int
    repeats: int
    log_evidence: float
    seen_ns: int


@dataclass(slots=True)
class _Account:
    tenant: str
    evidence: EProcess
    since_repeat: int = GAPS[-1]  # queries, counted up to where it makes no difference
    queries: int = 0
    repeats: int = 0
    seen_ns: int = 0


class _Query(NamedTuple):
    code: Codes  # (cells,)
    exact: np.uint64
    answer: Codes  # (bytes,)
    principal: str


class _AnswerSpec(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Watch:
    """Build it with `from_calibration`."""

    fingerprint: Fingerprint
    bet: Bet
    tails: NDArray[np.float64]  # (contexts, outcomes): p-value of an outcome or a rarer one
    digests: Mapping[str, str]  # of each screen
    key: bytes = field(repr=False)
    answer_names: frozenset[str]
    accounts_max: int
    windows_bytes_max: int
    techniques: Mapping[str, str] = field(default_factory=lambda: {similarity.NAME: similarity.TECHNIQUE})
    _accounts: OrderedDict[str, _Account] = field(default_factory=OrderedDict)
    _windows: OrderedDict[str, Window] = field(default_factory=OrderedDict)
    _windows_bytes: int = 0
    _answers: tuple[_AnswerSpec, ...] | None = None

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
        """Read the "similarity.*" arrays of `fit_watch`; CalibrationInvalid if malformed.

        Args:
            arrays: of the bundle; others are ignored.
            key: 16 to 64 secret bytes, the same as long as a snapshot shall be of use.
            answer_names: outputs that are kept to be given again.
            accounts_max: principals with evidence of their own.
            windows_bytes_max: of all windows together.
        """
        if not 16 <= len(key) <= 64:
            raise CalibrationInvalid("key", f"{len(key)} bytes; 16 to 64 wanted")
        own = {name: array for name, array in arrays.items() if name.startswith(f"{similarity.NAME}.")}
        bounds = own.get(BOUNDS)
        if bounds is None or bounds.dtype != np.float64 or bounds.shape != (len(GAPS) + 1, len(HOPES)):
            raise CalibrationInvalid(BOUNDS, f"float64 ({len(GAPS) + 1}, {len(HOPES)}) wanted")
        return cls(
            fingerprint=Fingerprint.from_calibration(own, key),
            bet=Bet.against(bounds, SHARES, np.array(HOPES)),
            tails=tails_of(bounds),
            digests={similarity.NAME: digest_arrays(_ALGORITHM, own)},
            key=key,
            answer_names=answer_names,
            accounts_max=accounts_max,
            windows_bytes_max=windows_bytes_max,
        )

    def observe(
        self,
        askers: Sequence[Asker],
        starts: NDArray[np.intp],
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        now_ns: int,
    ) -> Observed:
        """Take a batch that was answered: one asker a request, `starts` the first row of each.

        Raises:
            EvidenceInvalid: an input or a kept output has another shape than before.
        """
        codes, exact = self.fingerprint.codes(inputs), self.fingerprint.exact(inputs)
        packed = self._pack(outputs, len(codes))
        rows = len(codes)
        scores, p_values, log_evidence = np.zeros(rows), np.ones(rows), np.full(rows, -inf)
        anchors: dict[int, Mapping[str, NDArray[Any]]] = {}
        ends = [*starts.tolist()[1:], rows]
        for asker, start, end in zip(askers, starts.tolist(), ends, strict=True):
            account, window = self._account(asker, now_ns), self._window(asker.tenant, packed.shape[1])
            before = window.nbytes
            for row in range(start, end):
                query = _Query(codes[row], exact[row], packed[row], asker.principal)
                at, outcome = self._met(account, window, query)
                if at is not None:
                    anchors[row] = self._unpack(window.answers[at])
                if outcome is not None:
                    context = context_of(account.since_repeat)
                    account.evidence.update(self.bet.log_e[:, context, outcome].tolist())
                    p_values[row] = self.tails[context, outcome]
                    account.since_repeat = 1 if outcome else min(account.since_repeat + 1, GAPS[-1])
                log_evidence[row] = account.evidence.log_evidence
            self._windows_bytes += window.nbytes - before
        self._make_room()
        np.log(p_values, out=scores)
        return Observed({similarity.NAME: -scores}, {similarity.NAME: p_values}, log_evidence, anchors)

    def group_of(self, principal: str) -> str:
        """Return the name of the group a principal belongs to: its own while it moves alone."""
        return principal

    def accounts(self) -> Iterator[AccountView]:
        """Return all accounts that are remembered, the least recently seen first."""
        for principal, one in self._accounts.items():
            yield AccountView(
                principal,
                one.tenant,
                self.group_of(principal),
                one.queries,
                one.repeats,
                one.evidence.log_evidence,
                one.seen_ns,
            )

    def forgive(self, principal: str) -> None:
        """Forget the evidence against a principal: an operator found it innocent. What it asked stays remembered."""
        account = self._accounts.get(principal)
        if account is not None:
            account.evidence = EProcess(len(SHARES))
            account.since_repeat = GAPS[-1]
            account.repeats = 0

    def snapshot(self) -> bytes:
        """Return what is remembered, for `restore`."""
        raise NotImplementedError  # to come

    def restore(self, data: bytes) -> None:
        """Take over what `snapshot` returned; SnapshotInvalid for anything else, and then nothing has changed."""
        raise NotImplementedError  # to come

    def _met(self, account: _Account, window: Window, query: _Query) -> tuple[int | None, int | None]:
        """Return the anchor that a row repeats, and the outcome to bet on: 0 none, else by visits; None uncounted."""
        account.queries += 1
        asked_before = window.note(query.exact)
        at = window.nearest(query.code, self.fingerprint)
        if asked_before:
            return at, None
        if at is None:
            window.remember(query.code, self._owner(query.principal), query.answer)
            return None, 0
        account.repeats += 1
        return at, outcome_of(window.repeat(at))

    def _account(self, asker: Asker, now_ns: int) -> _Account:
        account = self._accounts.get(asker.principal)
        if account is None:
            account = self._accounts[asker.principal] = _Account(asker.tenant, EProcess(len(SHARES)))
        self._accounts.move_to_end(asker.principal)
        account.seen_ns = max(account.seen_ns, now_ns)
        return account

    def _window(self, tenant: str, answer_bytes: int) -> Window:
        window = self._windows.get(tenant)
        if window is None:
            window = self._windows[tenant] = Window.new(len(self.fingerprint.chosen), answer_bytes)
            self._windows_bytes += window.nbytes
        self._windows.move_to_end(tenant)
        return window

    def _make_room(self) -> None:
        """Let the least recently seen give way, but never the one just seen."""
        while len(self._accounts) > self.accounts_max:
            self._accounts.popitem(last=False)
        while self._windows_bytes > self.windows_bytes_max and len(self._windows) > 1:
            self._windows_bytes -= self._windows.popitem(last=False)[1].nbytes

    def _owner(self, principal: str) -> np.uint64:
        digest = blake2b(principal.encode(), digest_size=8, key=self.key, person=b"watch owner").digest()
        return np.uint64(int.from_bytes(digest, "little"))

    def _pack(self, outputs: Mapping[str, NDArray[Any]], rows: int) -> Codes:
        """Return the kept outputs of each row as bytes, (rows, bytes)."""
        kept = {name: np.ascontiguousarray(outputs[name]) for name in sorted(self.answer_names & outputs.keys())}
        specs = tuple(_AnswerSpec(name, array.dtype, array.shape[1:]) for name, array in kept.items())
        if self._answers is None:
            self._answers = specs
        if specs != self._answers or any(len(array) != rows for array in kept.values()):
            raise EvidenceInvalid("outputs", "another shape than before")
        parts = [array.reshape(rows, -1).view(np.uint8) for array in kept.values()]
        packed = np.concatenate(parts, axis=1) if parts else np.zeros((rows, 0), np.uint8)
        if packed.shape[1] > ANSWER_BYTES_MAX:
            raise EvidenceInvalid("outputs", f"{packed.shape[1]} bytes a row to keep; {ANSWER_BYTES_MAX} at most")
        return packed

    def _unpack(self, packed: Codes) -> Mapping[str, NDArray[Any]]:
        """Return a copy of what `_pack` took, one row each: (1, ...)."""
        found, at = {}, 0
        for name, dtype, shape in self._answers or ():
            count = int(np.prod(shape, dtype=np.int64))
            end = at + count * dtype.itemsize
            found[name] = packed[at:end].copy().view(dtype).reshape(1, *shape)
            at = end
        return found


def context_of(since_repeat: int) -> int:
    """Return the context of a query: how many queries ago the account's last repeat was, in steps of GAPS."""
    return sum(since_repeat >= gap for gap in GAPS)


def outcome_of(visits: int) -> int:
    """Return the outcome of a repeat: how often its anchor was repeated before, in steps of VISITS."""
    return 1 + sum(visits >= step for step in VISITS)


def tails_of(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values (contexts, outcomes): the bound on this outcome or one as rare; 1 for the ordinary one."""
    p_values = np.ones((bounds.shape[0], bounds.shape[1] + 1))
    for context, row in enumerate(bounds):
        for outcome, bound in enumerate(row):
            p_values[context, outcome + 1] = row[row <= bound].sum()
    return p_values
