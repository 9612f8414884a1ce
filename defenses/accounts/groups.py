"""Accounts that move together are one: whoever searches in the same small ball as another works with it.

Two accounts become a group when both repeat a *hot* anchor, one that was repeated HOT times already; also across
tenants, where two tenants' hot anchors lie in one ball (an index of the last 256 hot anchors finds that). Benign
traffic has short bursts about one thing, from one account.

Belonging to a group is no evidence: the repeat that unites two is bet on before they are one, else each group would
begin with a repeat that seems to come out of nothing. And nobody is judged by what others ask alone: the group's
evidence can lend a member's own LEND, no more. An account whose own queries look innocent stays innocent, whoever
copies them to drag it in; and each of ten accounts that share a search is found at a hundredth of the evidence that it
would take alone.

Bounded: groups hold at most 256 members, only accounts that are remembered. Not thread-safe; no clock.
"""

from dataclasses import dataclass, field
from math import log
from typing import Final

import numpy as np

from defenses.accounts.account import EProcess
from defenses.accounts.similarity import Codes
from defenses.accounts.window import differing

JUST_NOW: Final = 1  # queries since a repeat: it is one that unites
HOT: Final = 4  # repeats
LEND: Final = log(100.0)
MEMBERS_MAX: Final = 256
HOT_ANCHORS_MAX: Final = 256


@dataclass(slots=True)
class Group:
    """Evidence of what its members ask, as if one account had asked it, since they became one."""

    evidence: EProcess
    since_repeat: int
    members: list[str] = field(default_factory=list)  # the first named it


@dataclass(slots=True)
class Groups:
    """Who moves with whom. `bets` of the e-process of a group."""

    bets: int
    _of: dict[str, Group] = field(default_factory=dict)

    def of(self, principal: str) -> Group | None:
        return self._of.get(principal)

    def unite(self, one: str, other: str) -> None:
        """Make two accounts, with their groups, one; a group that would grow too large stays as it is."""
        first, second = self._of.get(one), self._of.get(other)
        if one == other or (first is not None and first is second):
            return
        if first is None or (second is not None and len(second.members) > len(first.members)):
            first, second, one, other = second, first, other, one
        if first is None:
            first = self._of[one] = Group(EProcess(self.bets), JUST_NOW, [one])
        newcomers = [other] if second is None else second.members
        if len(first.members) + len(newcomers) > MEMBERS_MAX:
            return
        if second is not None and second.evidence.log_evidence > first.evidence.log_evidence:
            first.evidence = second.evidence
        first.since_repeat = JUST_NOW
        first.members += newcomers
        for name in newcomers:
            self._of[name] = first

    def leave(self, principal: str) -> None:
        """Take an account out of its group; a group of one is none."""
        group = self._of.pop(principal, None)
        if group is None:
            return
        group.members.remove(principal)
        if len(group.members) == 1:
            self._of.pop(group.members.pop())

    def all(self) -> list[Group]:
        """Return the groups, each once."""
        return list({id(group): group for group in self._of.values()}.values())

    def restore(self, groups: list[Group]) -> None:
        """Take over what another process knew."""
        self._of = {name: group for group in groups for name in group.members}


@dataclass(slots=True, eq=False)
class HotAnchors:
    """The hot anchors of all tenants, the oldest first to go."""

    codes: Codes  # (cells, HOT_ANCHORS_MAX)
    askers: list[tuple[str, str]] = field(default_factory=list)  # (tenant, principal)
    newest: int = 0

    @classmethod
    def new(cls, cells: int) -> "HotAnchors":
        return cls(np.zeros((cells, HOT_ANCHORS_MAX), np.uint8))

    def met(self, code: Codes, tenant: str, principal: str, tolerance: int, allowed: int) -> list[str]:
        """Enter an anchor and return who of other tenants has one in the same ball."""
        held = self.codes[:, : len(self.askers)]
        near = np.flatnonzero(differing(held, code[:, None], tolerance) <= allowed).tolist() if self.askers else []
        found = [self.askers[at][1] for at in near if self.askers[at][0] != tenant]
        at = self.newest
        self.codes[:, at] = code
        self.askers[at : at + 1] = [(tenant, principal)]
        self.newest = (at + 1) % HOT_ANCHORS_MAX
        return found
