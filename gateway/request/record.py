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
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.admission.concurrency import Ticket
    from gateway.admission.limiter import Decision
    from gateway.auth.principal import Principal
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


class Phase(Enum):
    """How far the leaf of a record is. It only goes forward, but for a batch that gives its items back."""

    OPEN = 0  # nobody has taken on the duty to write it
    CLAIMED = 1  # exactly one has: the batch, or the completion of the call
    SETTLED = 2  # the sink has said what became of it


@dataclass(slots=True, eq=False)
class Record:
    """One request from its first header to its durable leaf. Times are nanoseconds of the monotonic clock unless named.

    `peer` is known once a handler runs. On the port without client certificates gRPC starts it when the body is there,
    so a record with BODY_INCOMPLETE says "unknown" there: gRPC tells nobody whose headers it has passed on.
    """

    id_bytes: bytes
    method: str
    right: str
    policy_digest: str
    time_ns: int
    """Unix time."""
    started_ns: int

    # Where the call and its leaf are.
    phase: Phase = Phase.OPEN
    finished: bool = False
    """The call is over."""
    body_there: bool = False
    """Its body has arrived; a stream's when it begins."""
    ring_slot: int = -1
    room_bytes: int = 0
    """What it takes of the room for payloads."""
    audit_index: int | None = None
    """Of the leaf within `audit_epoch`, a log of its own whose name is `audit_origin`; None until it is durable."""
    audit_epoch: int = 1
    audit_origin: str = ""

    # Who calls, and what they may have. `client_id` is the request's id in the client's words.
    peer: str = "unknown"
    names: tuple[str, ...] = ()
    """Of the client's certificate."""
    principal: Principal | None = None
    auth_json: str | None = None
    client_id: str = ""
    proof: str = ""
    """The proof of work that came with the request."""
    ticket: Ticket | None = None
    rate: Decision | None = None
    limits: list[str] = field(default_factory=list)
    deadline_ns: int | None = None
    deadline_us: int | None = None
    trace: str | None = None
    parent: TraceParent | None = None
    """The caller's span."""
    in_stream: bool = False
    stream_id: bytes | None = None
    """Of the stream that the message came in."""

    # What was asked of which model, and what became of it.
    body_ns: int = 0
    pinned: bool = False
    model_name: str = ""
    model_version: str = ""
    model_digest: str = ""
    model_json: str | None = None
    rows: int = 0
    batch_json: str | None = None
    screens_json: str | None = None
    output_json: str | None = None
    account_json: str | None = None
    budget_json: str | None = None
    payload_json: str | None = None
    cached: str = ""
    """The id of the request whose answer was given again; empty for an answer of its own."""
    timings_us: dict[str, int] = field(default_factory=dict)
    kind: str = "served"
    decision: str = "allow"
    reason: str = "OK"
    status: int = STATUS_OK
    id: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = self.id_bytes.hex()

    @property
    def claimed(self) -> bool:
        """Whether somebody has taken on the duty to write the leaf."""
        return self.phase is not Phase.OPEN

    @property
    def settled(self) -> bool:
        """Whether the sink has said what became of the leaf."""
        return self.phase is Phase.SETTLED

    def claim(self) -> None:
        """Take on the duty to write the leaf."""
        if self.phase is Phase.OPEN:
            self.phase = Phase.CLAIMED

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

    def judged(self, screens_json: str | None, account_json: str | None) -> None:
        """Write down what the screens said of the request, and of who asks: canonical JSON."""
        self.screens_json = screens_json
        self.account_json = account_json

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


def trailers(record: Record, verdict: str | None) -> tuple[tuple[str, str], ...]:
    """Return what every reply and refusal says about itself."""
    pairs = [("x-request-id", record.id), ("x-stockade-policy", record.policy_digest)]
    if record.rate is not None:
        rate = record.rate
        pairs.append(("x-ratelimit-limit", str(rate.limit)))
        pairs.append(("x-ratelimit-remaining", str(rate.remaining)))
        pairs.append(("x-ratelimit-reset", str(-(-rate.reset_ms // 1000))))  # seconds, rounded up
    if record.model_digest:
        pairs.append(("x-stockade-model-digest", record.model_digest))
    if record.audit_index is not None:
        pairs.append(("x-stockade-audit-origin", record.audit_origin))
        pairs.append(("x-stockade-audit-index", str(record.audit_index)))
    if verdict is not None:
        pairs.append(("x-stockade-verdict", verdict))
    return tuple(pairs)
