"""Who asked a watch: accounts with the evidence against each, who moves with whom, and what is kept of who gave way.

A watch says what a query repeats (`watch`); here that is bet on, for the account and for its group. Nothing is decided.
Bounded: of more than `accounts_max` accounts the least recently seen gives way to the archive.

Not thread-safe; no IO, no clock.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from defenses.accounts import direction, returns, similarity
from defenses.accounts.account import GAPS, REPEAT_BETS, Account, Bet, EProcess, context_of, since
from defenses.accounts.archive import Archive
from defenses.accounts.direction import Direction, Motion
from defenses.accounts.groups import LEND, Groups, HotAnchors
from defenses.accounts.observed import AccountView, Asker
from defenses.accounts.returns import Returns
from defenses.accounts.similarity import Codes
from defenses.accounts.window import Window

Outcome = tuple[int, int]
"""The context a row was bet on in, and what came of it."""


class Met(NamedTuple):
    """What became of a row: the anchor whose answer it gets, the outcomes of both bets (None: not bet on)."""

    anchor: int | None = None
    outcome: int | None = None
    motion: Outcome | None = None  # context, bin
    hot: tuple[int, int] | None = None  # the anchor that unites who repeats it, and how often it was repeated before
    returned: bool | None = None


@dataclass(slots=True, eq=False)
class Known:
    """See the module. `ball` is the fingerprint's first: the tolerance, and how many cells may be further."""

    bet: Bet
    direction: Direction
    returns: Returns | None
    archive: Archive
    hot: HotAnchors
    ball: tuple[int, int]
    accounts_max: int
    groups: Groups = field(default_factory=lambda: Groups(len(REPEAT_BETS)))
    accounts: OrderedDict[str, Account] = field(default_factory=OrderedDict)

    def account(self, asker: Asker, now_ns: int) -> Account:
        """Return the account of who asks now, with what the archive kept of it."""
        name = asker.principal
        account = self.accounts.get(name)
        if account is None:
            account = self.accounts[name] = Account(asker.tenant, EProcess(len(REPEAT_BETS)))
            kept = self.archive.take(name)
            if kept is not None:
                account.repeating.steps, account.repeating.logs = kept.steps, [kept.log_evidence] * len(REPEAT_BETS)
        self.accounts.move_to_end(name)
        account.seen_ns = max(account.seen_ns, now_ns)
        return account

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

    def together(self, one: str, other: str) -> bool:
        """Say whether two principals are one, or in one group."""
        group = self.groups.of(other)
        return one == other or (group is not None and group is self.groups.of(one))

    def views(self) -> Iterator[AccountView]:
        """Return all accounts, the least recently seen first."""
        for name, one in self.accounts.items():
            evidence = self.evidence_of(name, one)
            group = self.group_of(name)
            yield AccountView(name, one.tenant, group, one.queries, one.repeats, evidence, one.seen_ns)

    def forgive(self, principal: str) -> None:
        """Forget the evidence against a principal."""
        self.archive.take(principal)
        self.groups.leave(principal)
        account = self.accounts.get(principal)
        if account is not None:
            account.repeating, account.moving, account.motion = EProcess(len(REPEAT_BETS)), None, None
            account.returning = None
            account.since_repeat, account.repeats = GAPS[-1], 0

    def take(self, asker: Asker, account: Account, window: Window, met: Met) -> Iterator[tuple[str, Outcome]]:
        """Take what became of a row as evidence; yield each screen's context and outcome."""
        if met.outcome is not None:
            yield similarity.NAME, self._repeated(asker.principal, account, met.outcome)
        if met.motion is not None:
            yield direction.NAME, met.motion
        if met.returned is not None and self.returns is not None:
            if account.returning is None:
                account.returning = EProcess(returns.BETS)
            account.returning.update(self.returns.log_e[met.returned])
            yield returns.NAME, (0, int(met.returned))
        if met.hot is not None:
            self._join(asker, window, *met.hot)

    def moved(self, account: Account, tenant: str, window: Window, at: int, code: Codes) -> Outcome | None:
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

    def make_room(self) -> None:
        """Let the least recently seen give way."""
        while len(self.accounts) > self.accounts_max:
            name, account = self.accounts.popitem(last=False)
            # Its own: what its group lent it would be lent once more when it is back.
            self.archive.put(name, account.log_evidence, account.repeating.steps)
            self.groups.leave(name)

    def _repeated(self, principal: str, account: Account, outcome: int) -> Outcome:
        """Take an outcome as evidence against an account and its group; return its context with it."""
        context = context_of(account.since_repeat)
        account.repeating.update(self.bet.pays[context][outcome])
        account.since_repeat = since(account.since_repeat, outcome)
        group = self.groups.of(principal)
        if group is not None:
            group.evidence.update(self.bet.pays[context_of(group.since_repeat)][outcome])
            group.since_repeat = since(group.since_repeat, outcome)
        return context, outcome

    def _join(self, asker: Asker, window: Window, at: int, visits: int) -> None:
        """Make one group of those who repeat the same hot anchor, or hot anchors in one ball."""
        fellows = [window.askers[at]]
        if visits.bit_count() == 1:  # 4, 8, 16, ...: seldom, since this looks at all tenants
            fellows += self.hot.met(window.codes[:, at].copy(), asker.tenant, asker.principal, *self.ball)
        for name in fellows:
            if name in self.accounts:
                self.groups.unite(asker.principal, name)
