"""Who owes how much of a model's budget: the accounts of one model version in one process, bounded, with a snapshot.

Accounts are kept under the names that the caller gives (a principal's, or its group's where several move together).
An account without debt is as good as none, so it may be forgotten at any time; when there are `accounts_max` of others,
a tenth of them goes, those that owe least. Who floods the ledger with identities thus frees those that were almost out
of debt, and never the one that he is deepest in debt with.

A snapshot is JSON, so that a restart forgives nobody. Not for several threads; no clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

from defenses.errors import BudgetStateInvalid
from defenses.extraction.budget import FRESH, Account, Budget, BudgetStep

ACCOUNTS_MAX: Final = 100_000
SNAPSHOT_BYTES_MAX: Final = 64 * 1024 * 1024

_FORMAT = "stockade.budget-accounts/1"


@dataclass(slots=True)
class Ledger:
    """Implements what the module says. `now_ns` is a wall clock's, so that a snapshot means the same elsewhere."""

    accounts_max: int = ACCOUNTS_MAX
    _held: dict[str, Account] = field(default_factory=dict)

    def of(self, name: str) -> Account:
        """Return an account; one that is not known owes nothing."""
        return self._held.get(name, FRESH)

    def charge(
        self, name: str, budget: Budget, cost_milli: int, now_ns: int, *, proven: bool = False, top1: bool = False
    ) -> BudgetStep:
        """Take one answer's cost from an account; see `Budget.charge`."""
        account, step = budget.charge(self.of(name), cost_milli, now_ns, proven=proven, top1=top1)
        self._keep(name, account, now_ns)
        return step

    def join(self, name: str, other: str, budget: Budget, now_ns: int) -> None:
        """Have `name` owe what `other` owes too, which is forgotten: they turned out to be one."""
        if name != other and other in self._held:
            self._keep(name, budget.merge(self.of(name), self._held.pop(other), now_ns), now_ns)

    def forgive(self, name: str) -> bool:
        """Let an account off its debt; False where it had none."""
        return self._held.pop(name, None) is not None

    def debts(self, budget: Budget, now_ns: int) -> Mapping[str, float]:
        """Return what each account owes, in days, where it owes anything."""
        owed = {name: budget.debt_days(account, now_ns) for name, account in self._held.items()}
        return {name: days for name, days in owed.items() if days > 0.0}

    def __len__(self) -> int:
        return len(self._held)

    def snapshot(self, lock: AbstractContextManager[Any] | None = None) -> bytes:
        """Return all accounts, to be read by `restore`; `lock` is what keeps others out, held while they are copied."""
        with nullcontext() if lock is None else lock:
            held = dict(self._held)
        owed = {name: account.free_at_ns for name, account in held.items()}
        return json.dumps({"format": _FORMAT, "free_at_ns": owed}).encode()

    def restore(self, data: bytes, now_ns: int) -> None:
        """Take over the accounts of a snapshot beside what is known, the larger debt each.

        BudgetStateInvalid for any other bytes; then nothing is taken over.
        """
        for name, until in _parsed(data).items():
            if until > self.of(name).free_at_ns:
                self._keep(name, Account(until), now_ns)

    def _keep(self, name: str, account: Account, now_ns: int) -> None:
        if account.free_at_ns <= now_ns:
            self._held.pop(name, None)
            return
        self._held[name] = account
        if len(self._held) > self.accounts_max:
            self._forget(now_ns)

    def _forget(self, now_ns: int) -> None:
        """Drop the accounts that owe nothing, and of the others as many as it takes to leave a tenth of the room."""
        room = self.accounts_max - max(1, self.accounts_max // 10)
        owing = sorted(
            (account.free_at_ns, name) for name, account in self._held.items() if account.free_at_ns > now_ns
        )
        self._held = {name: self._held[name] for _, name in owing[-room:]}


def _parsed(data: bytes) -> dict[str, int]:
    try:
        read = json.loads(data) if len(data) <= SNAPSHOT_BYTES_MAX else None
    except (ValueError, RecursionError) as problem:
        raise BudgetStateInvalid(len(data)) from problem
    held = read.get("free_at_ns") if isinstance(read, dict) and read.get("format") == _FORMAT else None
    if not isinstance(held, dict) or not all(type(until) is int and 0 <= until < 1 << 63 for until in held.values()):
        raise BudgetStateInvalid(len(data))
    return held
