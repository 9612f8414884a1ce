"""The one wide event of a request: everything that is known about it, and its leaf in the audit log.

A `Record` is the only mutable thing in a request. The pipeline writes facts into it as they become known; `leaf` turns
them into the canonical JSON entry that `ops.audit.log.entry` defines (RFC 8785 restricted: ASCII key order, integers,
no floats). The entry is put together from prepared fragments because that costs a third of a general JSON dump; the
tests hold it equal, byte for byte, to `ops.audit.log.entry.canonical` of the same facts.

It does not decide, does not know gRPC, and does no IO.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.admission.concurrency import Ticket
    from gateway.admission.limiter import Decision
    from gateway.auth.principal import Principal
    from gateway.request.judgement import Judgement
    from ops.audit.store.client import Receipt
    from ops.process.tracing import TraceParent

STATUS_OK = 0
CREDENTIAL_CHARACTERS_MAX = 512  # what an entry takes; a SPIFFE id may be longer

_PLAIN = re.compile(r"[ !#-\[\]-~]*")  # printable ASCII without the quote and the backslash


def quoted(text: str) -> str:
    """Return `text` as a canonical JSON string; the common case costs one regular-expression match."""
    if _PLAIN.fullmatch(text):
        return f'"{text}"'
    return json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Site:
    """What is the same in every record of one process, with its fragments of an entry."""

    build: str
    config_digest: str
    gateway: str
    head_json: str
    gateway_json: str

    def cached_json(self, request_id: str) -> str:
        """Return the head of an entry whose answer was made for that request."""
        return f'"build":{quoted(self.build)},"cached":"{request_id}","config":"{self.config_digest}"'


def site_of(build: str, config_digest: str, gateway: str) -> Site:
    """Return the site with its fragments written once."""
    head = f'"build":{quoted(build)},"config":"{config_digest}"'
    return Site(build, config_digest, gateway, head, quoted(gateway))


def model_fragment(name: str, version: str, digest: str, engine: str) -> str:
    """Return which model answers, written once when it is loaded."""
    return f'{{"digest":"{digest}","engine":{quoted(engine)},"name":{quoted(name)},"version":{quoted(version)}}}'


class Record:
    """One request from its first header to its durable leaf. Times are nanoseconds of the monotonic clock unless named.

    `audit_index` is the leaf's index in the log once it is durable, and None before; it counts within `audit_epoch`, a
    log of its own whose name is `audit_origin`. `claimed` says that somebody has
    taken on the duty to write the leaf (the batch, or the exit): exactly one of them does; `settled` that the sink has
    said what became of it, `finished` that the call is over, `body_there` that its body has arrived (a stream's when it
    begins). `names` are those of the client's certificate, `client_id` the request's id in the client's words,
    `parent` the caller's span, `proof` the proof of work that came with the request, `stream_id` the id of the stream a
    message came in, `body_ns` when the body was there, `room_bytes` what it takes of the room for payloads; none of
    them is part of the leaf. `cached` is the id of the request whose answer was given again, empty for an answer of
    its own.

    `peer` is known once a handler runs. On the port without client certificates gRPC starts it when the body is there,
    so a record with BODY_INCOMPLETE says "unknown" there: gRPC tells nobody whose headers it has passed on.
    """

    __slots__ = (
        "account_json",
        "audit_epoch",
        "audit_index",
        "audit_origin",
        "auth_json",
        "batch_json",
        "body_ns",
        "body_there",
        "budget_json",
        "cached",
        "claimed",
        "client_id",
        "deadline_ns",
        "deadline_us",
        "decision",
        "finished",
        "id",
        "id_bytes",
        "in_stream",
        "kind",
        "limits",
        "method",
        "model_digest",
        "model_json",
        "model_name",
        "model_version",
        "names",
        "output_json",
        "parent",
        "payload_json",
        "peer",
        "pinned",
        "policy_digest",
        "principal",
        "proof",
        "rate",
        "reason",
        "right",
        "ring_slot",
        "room_bytes",
        "rows",
        "screens_json",
        "settled",
        "started_ns",
        "status",
        "stream_id",
        "ticket",
        "time_ns",
        "timings_us",
        "trace",
    )

    def __init__(  # noqa: PLR0917  one call site, in the order of the slots
        self, id_bytes: bytes, method: str, right: str, policy_digest: str, time_ns: int, started_ns: int
    ) -> None:
        self.id_bytes = id_bytes
        self.id = id_bytes.hex()
        self.method = method
        self.right = right
        self.policy_digest = policy_digest
        self.time_ns = time_ns
        self.started_ns = started_ns
        self.peer = "unknown"
        self.deadline_ns: int | None = None
        self.deadline_us: int | None = None
        self.trace: str | None = None
        self.parent: TraceParent | None = None
        self.body_ns = 0
        self.body_there = False
        self.principal: Principal | None = None
        self.auth_json: str | None = None
        self.rate: Decision | None = None
        self.limits: list[str] = []
        self.ticket: Ticket | None = None
        self.ring_slot = -1
        self.room_bytes = 0
        self.pinned = False
        self.model_name = ""
        self.model_version = ""
        self.model_digest = ""
        self.model_json: str | None = None
        self.rows = 0
        self.batch_json: str | None = None
        self.screens_json: str | None = None
        self.output_json: str | None = None
        self.account_json: str | None = None
        self.budget_json: str | None = None
        self.cached = ""
        self.payload_json: str | None = None
        self.timings_us: dict[str, int] = {}
        self.kind = "served"
        self.decision = "allow"
        self.reason = "OK"
        self.status = STATUS_OK
        self.client_id = ""
        self.names: tuple[str, ...] = ()
        self.proof = ""
        self.in_stream = False
        self.stream_id: bytes | None = None
        self.claimed = False
        self.settled = False
        self.finished = False
        self.audit_index: int | None = None
        self.audit_epoch = 1
        self.audit_origin = ""

    def durable(self, receipt: Receipt, offset: int = 0) -> None:
        """The leaf is durable, as entry `offset` of those that the receipt is for."""
        self.audit_index, self.audit_epoch = receipt.first_index + offset, receipt.epoch
        self.audit_origin = receipt.origin

    def caller(self) -> Principal:
        """Return the authenticated principal; the pipeline has none of its later steps without one."""
        if self.principal is None:
            raise errors.CredentialMissing
        return self.principal

    def late(self, now_ns: int) -> bool:
        """Say whether the caller's deadline has passed."""
        return self.deadline_ns is not None and now_ns >= self.deadline_ns

    def stages(self, durations_ns: dict[str, int]) -> None:
        """Write down how long several stages took."""
        for name, duration_ns in durations_ns.items():
            self.timings_us[name] = duration_ns // 1000

    def stage(self, name: str, duration_ns: int) -> None:
        """Write down how long a stage took."""
        self.timings_us[name] = duration_ns // 1000

    def limited(self, decision: Decision, clock_ns: int | None = None) -> None:
        """Write down what the limiter said, and when; the tightest rule is the one the caller is told of."""
        verdict = "admit" if decision.admitted else "refuse"
        clock = "" if clock_ns is None else f'"clock_ns":"{clock_ns}",'
        self.limits.append(
            f'{{{clock}"decision":"{verdict}","rule":{quoted(decision.rule)},"tokens":{decision.remaining}}}'
        )
        if self.rate is None or not decision.admitted or decision.remaining < self.rate.remaining:
            self.rate = decision

    def limits_unavailable(self) -> None:
        """Write down that the limits which gateways share could not be asked for."""
        self.limits.append('{"decision":"refuse","rule":"shared-limits","tokens":0}')

    def batch(self, batch_id: int, position: int, size: int, rows: int) -> None:
        """Write down where in which batch the request was answered. Nothing is padded."""
        self.batch_json = f'{{"id":{batch_id},"padded":{rows},"position":{position},"rows":{rows},"size":{size}}}'

    def judged(self, judgement: Judgement, position: int) -> None:
        """Write down what the screens said of the request at this position of its batch, and of who asks."""
        self.screens_json = judgement.screens_json[position]
        self.account_json = judgement.accounts_json[position]

    def end(self, kind: str, decision: str, reason: str, status: int) -> None:
        """Write down how it ended."""
        self.kind = kind
        self.decision = decision
        self.reason = reason
        self.status = status

    def leaf(self, site: Site) -> bytes:
        """Return the entry for the audit log."""
        first = (
            ("account", self.account_json),
            ("auth", self.auth_json),
            ("batch", self.batch_json),
            ("budget", self.budget_json),
        )
        parts = ["{", *[f'"{name}":{part},' for name, part in first if part is not None]]
        parts.append(site.cached_json(self.cached) if self.cached else site.head_json)
        if self.deadline_us is not None:
            parts.append(f',"deadline_us":{self.deadline_us}')
        parts.append(f',"decision":"{self.decision}","gateway":{site.gateway_json},"id":"{self.id}"')
        parts.append(f',"kind":"{self.kind}"')
        if self.limits:
            parts.append(f',"limits":[{",".join(self.limits)}]')
        parts.append(f',"method":{quoted(self.method)}')
        if self.model_json is not None:
            parts.append(f',"model":{self.model_json}')
        if self.output_json is not None:
            parts.append(f',"output":{self.output_json}')
        if self.payload_json is not None:
            parts.append(f',"payload":{self.payload_json}')
        pinned = ',"pinned":true' if self.pinned else ""
        parts.append(f',"peer":{quoted(self.peer)}{pinned},"policy":"{self.policy_digest}","reason":"{self.reason}"')
        if self.rows:
            parts.append(f',"rows":{self.rows}')
        if self.screens_json is not None:
            parts.append(f',"screens":{self.screens_json}')
        parts.append(f',"status":{self.status},"time_ns":"{self.time_ns}","timings_us":{timings(self.timings_us)}')
        if self.trace is not None:
            parts.append(f',"trace":"{self.trace}"')
        parts.append(',"v":1}')
        return "".join(parts).encode()


def timings(stages: dict[str, int]) -> str:
    """Return the stage durations as a canonical object: microseconds, in key order."""
    return "{" + ",".join([f'"{stage}":{stages[stage]}' for stage in sorted(stages)]) + "}"


def auth_fragment(principal: Principal, pseudonym: str) -> str:
    """Return who asked. The principal's name is replaced by its pseudonym under the tenant's key."""
    return (
        f'{{"credential":{quoted(principal.credential[:CREDENTIAL_CHARACTERS_MAX])},"method":"{principal.method}",'
        f'"principal":"{pseudonym}","tenant":{quoted(principal.tenant)}}}'
    )


def refusal_sum(
    site: Site, auth_json: str, reasons: Mapping[str, int], *, id_hex: str, policy_digest: str, time_ns: int
) -> bytes:
    """Return the entry that stands for many refusals of one caller; `auth_json` is empty for strangers."""
    auth = f'"auth":{auth_json},' if auth_json else ""
    counts = ",".join(f'"{reason}":{count}' for reason, count in sorted(reasons.items()))
    return (
        f'{{{auth}{site.head_json},"count":{sum(reasons.values())},"decision":"refuse","gateway":{site.gateway_json},'
        f'"id":"{id_hex}","kind":"refused","policy":"{policy_digest}","reasons":{{{counts}}},'
        f'"time_ns":"{time_ns}","v":1}}'
    ).encode()
