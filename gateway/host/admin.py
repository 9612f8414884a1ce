"""The control plane of a host: the admin port, and the entries that say what is in force.

mTLS only, and the same pipeline as everything else: callers are principals of the policy, known by their client
certificates and by nothing else (no key gets in, whatever its role may do); every call is authorised, limited and
recorded like an inference. It runs in the supervisor, beside no model and far from the data port. Proofs and entries
come from the public log as it stands on disk: nothing said here needs to be trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway import errors
from gateway.config.document import canonical_json
from gateway.control.audit_methods import audit_methods
from gateway.control.custody.methods import custody_methods
from gateway.control.custody.procedure import Custody
from gateway.control.incident_methods import incident_methods
from gateway.control.labels.review import review_methods
from gateway.control.orders import told
from gateway.control.promotions import proof_entry, unproven_entry
from gateway.control.public_log import PublicLog
from gateway.control.quarantine.methods import quarantine_methods
from gateway.control.quarantine.store import QUARANTINE, Quarantine
from gateway.control.release.view import shown
from gateway.control.replay_methods import replay_methods
from gateway.control.tenants.methods import tenant_methods
from gateway.edge.server import drain, listen, open_server
from gateway.edge.service import Service, Unary
from gateway.host.app import App, open_app
from gateway.request.completion import append_awaited
from ops.audit.log.entry import VERSION, canonical
from ops.audit.payloads.erasure import Erasures
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from google.protobuf.message import Message

    from gateway.control.release.releases import Change
    from gateway.edge.service import Call
    from gateway.host.host import Host
    from gateway.models.model_set import Listed
    from gateway.policy.policy import Policy
    from gateway.request.gateway import Gateway
    from gateway.request.item import Answer
    from ops.audit.payloads.keys import KeyStore

DRAIN_S = 5.0
PROBLEM_CHARACTERS_MAX = 500
OWED_MAX = 64


@dataclass(slots=True)
class Control:
    """The control process's own gateway, without models, and the host it speaks for. `owed` is not recorded yet."""

    host: Host
    app: App = field(init=False)
    quarantine: Quarantine = field(init=False)
    custody: Custody = field(init=False)
    owed: deque[tuple[str, dict[str, Any]]] = field(default_factory=deque)
    recording: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def fleet(self) -> Host:
        """The host that it speaks for."""
        return self.host

    @property
    def gw(self) -> Gateway:
        """The control process's own gateway."""
        return self.app.gw

    @property
    def keys(self) -> KeyStore:
        """The keys of payloads and pseudonyms."""
        return self.app.keys

    async def open(self, stack: contextlib.AsyncExitStack) -> str | None:
        """Say in the log what is in force, and open the admin port if there is to be one. Returns its address."""
        host, methods = self.host, self.methods()
        self.app = await open_app(
            host.config,
            host.kept.copy,
            process="admin",
            log=host.log,
            methods=methods,
            bundles=[],
            isolations=host.segments.isolations,
        )
        stack.push_async_callback(self.app.close)
        self.quarantine = await asyncio.to_thread(Quarantine, host.place.memory.with_name(QUARANTINE))
        stack.callback(self.quarantine.close)
        erasures = await asyncio.to_thread(Erasures, host.config.audit.key_database)
        stack.callback(erasures.close)
        metrics = self.app.metrics.erasures()
        self.custody = Custody(erasures, self.record_together, self.public_log().reader_from, host.log, metrics=metrics)
        await self.say_what_is_in_force()
        await self.custody.finish()  # what a crash has interrupted, before anybody asks
        if host.config.listen.admin is None:
            return None
        service = Service(self.app.gw, methods, client_certificates=True, certificates_alone=True)
        server = open_server(service, host.config)
        address = listen(server, host.config.listen.admin, host.config.tls, client_certificate=True)
        await server.start()
        stack.push_async_callback(drain, [server], self.app.gw, DRAIN_S)
        return address

    async def say_what_is_in_force(self) -> None:
        """Record configuration, policy and models; clients are served only after that is durable."""
        host = self.host
        await self.record("config", digest=host.config.digest, outcome="loaded")
        await self.record("policy", digest=host.policy.digest, outcome="loaded")
        models = host.repository.models
        for listed in models.listed:
            await self.record("model", **model_entry("unloaded" if listed.key in models.unloaded else "loaded", listed))
        for listed in models.listed:
            if (proof := host.repository.judged.proofs.get(listed.key)) is not None:
                await self.record("model", **proof_entry(listed, proof))
        for listed, unproven in host.repository.judged.unproven.values():
            await self.record("model", **unproven_entry(listed, unproven))
        await host.segments.say_what_holds()

    async def policy_changed(self, policy: Policy) -> None:
        """Follow the workers to a new policy, and record it."""
        self.app.put_in_force(await asyncio.to_thread(self.app.compile, policy), policy)
        await self.record_when_possible("policy", digest=policy.digest, outcome="loaded")

    async def model_changed(self, action: str, listed: Listed, request: str) -> None:
        """Record that a version came into service or went out of it, with the request that asked for it, if any."""
        asked = {"request": request} if request else {}
        await self.record_when_possible("model", **model_entry(action, listed), **asked)

    async def model_judged(self, entry: Mapping[str, Any], request: str = "") -> None:
        """Record that a version has the proof that the policy asks for, or has not, and who asked, if anybody did."""
        asked = {"request": request} if request else {}
        await self.record_when_possible("model", **entry, **asked)

    async def release_changed(self, change: Change, policy: Policy) -> None:
        """Count and record what has happened to a model's release under this policy."""
        metrics = self.app.metrics.release
        metrics.event(change.model, change.action)
        metrics.weights(change.model, change.weights)
        await self.record_when_possible("release", policy=policy.digest, **change.entry())

    async def policy_refused(self, problem: str) -> None:
        """Record that the policy in the file was refused and the one in force stays."""
        digest = self.host.policy.digest
        reason = problem[:PROBLEM_CHARACTERS_MAX]
        await self.record_when_possible("policy", digest=digest, outcome="rejected", reason=reason)

    async def record_when_possible(self, kind: str, **fields: Any) -> None:
        """Append an entry about what has happened already, now or once the recorder is back.

        Of more than OWED_MAX the oldest is given up: what is in force now is worth more than what was.
        """
        if len(self.owed) >= OWED_MAX:
            dropped, about = self.owed.popleft()
            self.host.log("owed-entry-dropped", level="error", kind=dropped, digest=digest_of(about))
        self.owed.append((kind, fields))
        await self.record_owed()

    async def record_owed(self) -> None:
        """Append what could not be appended before. One that timed out may then be there twice."""
        async with self.recording:  # the watcher and whoever reloads may come at once
            while self.owed:
                entry = kind, fields = self.owed[0]
                try:
                    await self.record(kind, **fields)
                except errors.AuditUnavailable:
                    self.host.log("entry-not-recorded", level="error", kind=kind, digest=digest_of(fields))
                    return
                if self.owed and self.owed[0] is entry:  # else it was given up meanwhile
                    self.owed.popleft()

    async def record(self, kind: str, **fields: Any) -> None:
        """Append an entry of the control plane; returns when it is durable, raises AuditUnavailable otherwise."""
        await self.record_together(kind, [fields])

    async def record_together(self, kind: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Append entries one behind the other, all of them or none. Raises AuditUnavailable."""
        gw = self.app.gw
        fixed = {
            "build": gw.site.build,
            "gateway": gw.site.gateway,
            "kind": kind,
            "time_ns": str(gw.wall_ns()),
            "v": VERSION,
        }
        await append_awaited([canonical({**fixed, "id": gw.new_id().hex(), **fields}) for fields in entries], gw)

    def public_log(self) -> PublicLog:
        """Return the log that the host publishes."""
        audit = self.host.config.audit
        return PublicLog(audit.directory, audit.vkey, self.host.place.cosigned)

    def methods(self) -> dict[str, Unary]:
        """Return every method of the admin port by its gRPC path."""
        admin, audit, feedback = "/stockade.v1.Admin/", "/stockade.v1.Audit/", "/stockade.v1.FeedbackReview/"
        return {
            admin + "Status": Unary("Admin", told(admin_pb2.StatusRequest, self.status)),
            admin + "GetPolicy": Unary("Admin", told(admin_pb2.GetPolicyRequest, self.get_policy)),
            admin + "ReloadPolicy": Unary("Admin", told(admin_pb2.ReloadPolicyRequest, self.reload_policy)),
            **{audit + name: Unary("Audit", run) for name, run in audit_methods(self).items()},
            **{feedback + name: Unary("Admin", run) for name, run in review_methods(self).items()},
            **{admin + name: Unary("Admin", run) for name, run in operator_methods(self).items()},
            **custody_methods(self),
        }

    async def status(self, _: admin_pb2.StatusRequest) -> Message:
        host = self.host
        reply = admin_pb2.StatusResponse(
            build=self.app.gw.site.build,
            config_digest=host.config.digest,
            policy_digest=host.policy.digest,
            started_unix_ns=host.started_ns,
            draining=self.app.gw.draining,
        )
        for number, worker in enumerate(host.workers):
            pid = worker.process.pid if worker.process is not None else 0
            ready, digest = worker.ready.is_set(), str(worker.facts.get("policy", ""))
            reply.workers.add(
                number=number, pid=pid, ready=ready, restarts=max(0, worker.starts - 1), policy_digest=digest
            )
        models = host.repository.models
        for listed in models.listed:
            ready = host.ready() and listed.key not in models.unloaded
            reply.models.add(name=listed.name, version=listed.version, digest=listed.digest, ready=ready)
        await host.rollout.count()
        reply.releases.extend(shown(host.rollout.releases, host.rollout.counted))
        reply.audit.origin = self.app.sink.origin
        reply.audit.available = self.app.sink.available
        reply.audit.tree_size = await asyncio.to_thread(lambda: self.public_log().reader().checkpoint.size)
        return reply

    async def get_policy(self, _: admin_pb2.GetPolicyRequest) -> Message:
        policy = self.host.policy
        return admin_pb2.GetPolicyResponse(digest=policy.digest, policy=canonical_json(policy.masked()))

    async def reload_policy(self, request: admin_pb2.ReloadPolicyRequest) -> Message:
        previous = self.host.policy.digest
        accepted = await self.host.reload(expected_digest=request.expected_digest)
        return admin_pb2.ReloadPolicyResponse(
            digest=self.host.policy.digest,
            previous_digest=previous,
            accepted=accepted,
            problem="" if accepted else self.host.problem,
        )


def model_entry(action: str, listed: Listed) -> dict[str, str]:
    """Return what an entry says of a model version."""
    return {"action": action, "name": listed.name, "version": listed.version, "digest": listed.digest}


def digest_of(fields: Mapping[str, Any]) -> str | None:
    """Return the digest of the policy or model that an entry is about."""
    return fields.get("digest") or fields.get("policy")


def operator_methods(control: Control) -> dict[str, Callable[[Call, bytes], Awaitable[Answer]]]:
    """Return the methods about callers, what waits for review, incidents and replays, by their names."""
    return {
        **tenant_methods(control, control.host.segments),
        **quarantine_methods(control),
        **incident_methods(control),
        **replay_methods(control),
    }
