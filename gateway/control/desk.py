"""What operator actions work with: the writer of entries (`Journal`), the workers and models (`Fleet`), the `Desk`.

The host hands in the real ones (`gateway.host.host.Host`, `gateway.host.admin.Control`). No module that this one
imports may import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from gateway.config.place import Place
    from gateway.control.custody.procedure import Custody
    from gateway.control.labels.evaluation import Evaluations
    from gateway.control.public_log import PublicLog
    from gateway.control.quarantine.store import Quarantine
    from gateway.control.release.releases import Change
    from gateway.control.repository import Asked, Repository
    from gateway.models.model_set import Listed, ModelSet
    from gateway.policy.file import Kept
    from gateway.policy.policy import Policy
    from gateway.request.gateway import Gateway
    from ops.audit.payloads.keys import KeyStore
    from ops.process.logging import Log


class Worker(Protocol):
    """A worker process of the host. `facts` is what it said of itself last."""

    ready: asyncio.Event
    facts: dict[str, Any]

    @property
    def alive(self) -> bool: ...

    def tell(self, **message: Any) -> None: ...


class Journal(Protocol):
    """Appends entries of the control plane to the audit log, and follows what the host has changed.

    `record` and `record_together` return when the entries are durable and raise AuditUnavailable otherwise;
    `record_when_possible` keeps an entry until the recorder is back.
    """

    @property
    def gw(self) -> Gateway: ...

    @property
    def keys(self) -> KeyStore: ...

    async def record(self, kind: str, **fields: Any) -> None: ...

    async def record_together(self, kind: str, entries: Sequence[Mapping[str, Any]]) -> None: ...

    async def record_when_possible(self, kind: str, **fields: Any) -> None: ...

    async def model_judged(self, entry: Mapping[str, Any], request: str = "") -> None: ...

    async def record_owed(self) -> None: ...

    async def policy_changed(self, policy: Policy) -> None: ...

    async def policy_refused(self, problem: str) -> None: ...

    async def model_changed(self, action: str, listed: Listed, request: str) -> None: ...

    async def release_changed(self, change: Change, policy: Policy) -> None: ...


class Fleet(Protocol):
    """The workers of a host with the policy and the models that they follow. `control` is None until there is a log."""

    @property
    def log(self) -> Log: ...

    @property
    def place(self) -> Place: ...

    @property
    def policy(self) -> Policy: ...

    @property
    def kept(self) -> Kept: ...

    @property
    def workers(self) -> Sequence[Worker]: ...

    @property
    def repository(self) -> Repository: ...

    @property
    def evaluations(self) -> Evaluations: ...

    @property
    def reloading(self) -> asyncio.Lock: ...

    @property
    def control(self) -> Journal | None: ...

    def permits(self, asked: Asked, listed: Listed) -> bool: ...

    async def bring(
        self, policy: Policy, policy_file: Path, models: ModelSet, keep: Callable[[], None]
    ) -> str | None: ...

    async def models_changed(self, before: ModelSet, request: str = "") -> None: ...


class Desk(Journal, Protocol):
    """Where an operator's calls are answered: the journal, and what operators look at and act on."""

    @property
    def fleet(self) -> Fleet: ...

    @property
    def quarantine(self) -> Quarantine: ...

    @property
    def custody(self) -> Custody: ...

    def public_log(self) -> PublicLog: ...
