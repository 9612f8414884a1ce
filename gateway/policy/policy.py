"""`policy.yaml`: who may do what, how much, and how it is screened. Hot: taken over without a restart.

Rules: the signature over the exact bytes is verified before a byte is parsed; every name that is referred to exists; an
identity (API key, subject, SPIFFE id) belongs to one principal; `revision` only goes up, so that nobody can bring back
an old policy by copying its file (going back means signing the old content under a higher revision).
This module says what the policy is; `gateway.policy.checks` says what is wrong with one. What follows from it (rights
tables, limiters, screens) is built elsewhere.

    PolicyRejected
    ├── PolicySignatureInvalid     missing, or not made by the configured key over these bytes
    └── PolicyRollback             the revision is not above the one in force
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from gateway.config.document import PolicyRejected, Section, canonical_json
from gateway.config.units import Date, Rate, Text
from gateway.policy.budget import ExtractionBudget
from gateway.policy.feedback import Feedback, FeedbackKey
from gateway.policy.output import Output
from gateway.policy.promotion import Approver, Promotion
from gateway.policy.release import Release
from gateway.policy.watch import Watch

Name = Annotated[
    str, Text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "1 to 64 letters, digits, dots, hyphens and underscores")
]
Alpha = Annotated[float, Field(gt=0, lt=1)]
Capture = Literal["none", "flagged", "sampled", "all"]


class PolicyRollback(PolicyRejected):
    """The policy is older than the one in force, or a different one under the same revision."""


class PriorityClass(Section):
    """How urgent the requests of a tenant are. Bound to the identity; a client cannot claim it."""

    lane: Annotated[int, Field(ge=0, le=3)]
    """0 goes first; under overload the highest lane is refused first."""


class LimitSet(Section):
    """GCRA on requests and on cost (rows x the model's `cost_per_row`), and calls at the same time."""

    request_interval_ns: Annotated[int, Rate()] = Field(alias="requests")
    """Requests in the long run, such as "200/s"."""
    request_burst: Annotated[int, Field(ge=1, le=10_000_000)]
    """Requests that may come at once after a pause."""
    cost_interval_ns: Annotated[int, Rate()] = Field(alias="cost")
    """Cost in the long run."""
    cost_burst: Annotated[int, Field(ge=1, le=100_000_000)]
    """Cost that may come at once; a single request that costs more can never be admitted."""
    in_flight_max: Annotated[int, Field(ge=1, le=100_000)] = Field(alias="in_flight")
    """Calls being worked on at the same time, in one worker."""
    queries_per_day: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Rows that inferences may ask about in a day: a budget of that many, which comes back evenly within 24 hours.
    After a pause all of it is there at once. Beyond it: QUOTA_EXCEEDED. Absent: no such budget."""


class LimitsAway(Section):
    """What gateways do while the Redis in which they share limits is away. Recovery is automatic."""

    when_down: Literal["refuse", "local_share"] = "refuse"
    """`refuse`: every inference, with LIMITS_UNAVAILABLE. `local_share`: admit a share of each limit."""
    share: Annotated[float, Field(ge=0.001, le=1)] | None = None
    """The share of one gateway, its workers together, such as 0.25 where there are four. Shares that add up to more
    than 1 admit more than the limit while Redis is away."""


class Grant(Section):
    """What a role allows: these methods, on these models, in these versions."""

    methods: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    """Method names (`ModelInfer`), service names (`Health`), or "*"."""
    models: Annotated[tuple[str, ...], Field(max_length=1024)] = ()
    """Model names, or "*"; needed when a method is about a model."""
    versions: Annotated[tuple[str, ...], Field(min_length=1, max_length=1024)] = ("*",)
    """Versions in quotes, or "*"."""


class Tenant(Section):
    """An organisation or site: the unit of fairness and of payload keys."""

    limits: str
    """The limit set that all its principals share."""
    priority_class: str = Field(alias="class")
    """Its priority class, also its label in metrics."""
    capture: Capture = "none"
    """Which payloads are kept, encrypted, for replay; the narrower of this and the model's `capture` holds."""


class ApiKey(Section):
    """One API key of a principal. The gateway keeps only its HMAC."""

    id: Annotated[str, Text(r"[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, hyphens and underscores")]
    """The public half, before the dot."""
    hmac: Annotated[str, Text(r"[0-9a-f]{64}", "64 lower-case hex digits, as `stockade keys add` prints them")]
    """HMAC-SHA-256 of the whole key (`id.secret`) under the pepper, hex; `stockade keys add` prints it."""
    expires_ns: Annotated[int, Date()] = Field(alias="expires")
    """From this moment on the key is refused."""
    revoked: bool = False
    """Refuses the key at once and keeps its id from being used again."""


class Subject(Section):
    """A JWT identity."""

    issuer: str
    """A name of `issuers`."""
    subject: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    """The token's `sub`, exactly."""


class Principal(Section):
    """Somebody who calls."""

    tenant: str
    """The tenant it acts for."""
    roles: Annotated[tuple[str, ...], Field(min_length=1, max_length=16)]
    """The roles it has; a right in any of them is a right."""
    limits: str
    """Its own limit set, inside its tenant's."""
    api_keys: Annotated[tuple[ApiKey, ...], Field(max_length=16)] = ()
    """At most two that are not revoked, so that one can replace the other without a pause."""
    subjects: Annotated[tuple[Subject, ...], Field(max_length=16)] = ()
    """JWT identities."""
    spiffe: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """SPIFFE ids of its client certificates."""
    dns: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """DNS names, in lower case, of its client certificates that carry no SPIFFE id."""
    feedback_keys: Annotated[tuple[FeedbackKey, ...], Field(max_length=4)] = ()
    """Ed25519 public keys, raw, hex, with which it signs labels; `stockade feedback key` makes one."""


class Issuer(Section):
    """Who issues JWTs, and how their signatures are checked."""

    url_or_file: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    """The JWKS: an https URL, or a path relative to this file."""
    issuer: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    """The token's `iss`, exactly."""
    audience: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    """What the token's `aud` must hold."""
    algorithms: Annotated[tuple[Literal["EdDSA", "ES256", "RS256"], ...], Field(min_length=1)]
    """The only algorithms accepted; the token does not choose."""

    @property
    def jwks_url(self) -> str | None:
        """The URL of the keys, or None when they are in a file."""
        return self.url_or_file if "://" in self.url_or_file else None


class ScreenPolicy(Section):
    """What becomes of a screen's p-value."""

    mode: Literal["enforce", "shadow"] = "shadow"
    """`shadow` records and counts the verdict and changes no answer."""
    flag_alpha: Alpha = Field(alias="flag")
    """At or below this p-value a row is flagged: also the share of honest rows that will be."""
    refuse_alpha: Alpha | None = Field(default=None, alias="refuse")
    """At or below this p-value a row is refused; absent: never."""


class Hardening(Section):
    """How much of an answer is given away. The top class never changes."""

    top_k: Annotated[int, Field(ge=1, le=100_000)]
    """Classes that keep a probability of their own."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Above 1 evens the probabilities out."""
    decimals: Annotated[int, Field(ge=0, le=9)]
    """Digits after the point."""
    when: Literal["always", "flagged"] = "always"
    """For every answer, or only for rows that a screen flagged."""


class ModelPolicy(Section):
    """How one model is served."""

    serve: Name
    """The version that a request without a version means; in quotes."""
    cost_per_row: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """What a row counts against `cost` limits."""
    outputs: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)] | None = None
    """Outputs that clients may have; absent: all of the bundle's but nearest prototypes, which must be named."""
    reserved: Annotated[
        Mapping[str, Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]], Field(max_length=64)
    ] = {}
    """Outputs that only these roles may have, such as user embeddings; to all others they do not exist."""
    rotate: Annotated[tuple[Name, ...], Field(max_length=16)] = ()
    """Embeddings that each tenant gets turned by a secret rotation of its own: lengths, angles and distances stay, and
    two tenants' do not fit together. A number may then lie outside of the range that the bundle declares."""
    screens: Mapping[Name, ScreenPolicy] = {}
    """By screen."""
    watch: Watch | None = None
    """What becomes of accounts whose questions, taken together, look like an attack."""
    budget: ExtractionBudget | None = None
    """How much of the model an account may learn in a day."""
    harden: Hardening | None = None
    output: Output | None = None
    """Which classes and texts may leave, and how sure the model has to be."""
    reveal_verdict: bool = False
    """Tells clients in a trailer whether a screen flagged them. An attacker can learn from it."""
    capture: Capture = "none"
    """Which payloads are kept, encrypted, for replay."""
    capture_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share kept when `capture` is `sampled`."""
    feedback: Feedback | None = None
    """How labels that clients send later are judged; absent: none are taken."""
    release: Release | None = None
    """How its versions are rolled out."""
    acknowledge: Literal["local", "replica", "witnessed"] = "local"
    """Where the record of an answer has to be before it leaves: `local`, durable on this host; `replica`, in the object
    store of `audit.replication`; `witnessed`, in a checkpoint that the quorum of `audit.witnesses` has cosigned. Each
    answer then takes as long as `every` there."""
    promotion: Promotion | None = None
    """What a version must have proven before it is served; absent: a trusted signature on its bundle is enough."""


class Policy(Section):
    """Stockade's policy (`policy.yaml`)."""

    version: Literal[1]
    """The format of this file."""
    revision: Annotated[int, Field(ge=1, le=2**53 - 1)]
    """Goes up with every change; a running gateway refuses one that does not."""
    classes: Annotated[Mapping[Name, PriorityClass], Field(min_length=1, max_length=8)]
    limits: Annotated[Mapping[Name, LimitSet], Field(min_length=1, max_length=1024)]
    roles: Annotated[Mapping[Name, tuple[Grant, ...]], Field(min_length=1, max_length=1024)]
    tenants: Annotated[Mapping[Name, Tenant], Field(min_length=1, max_length=100_000)]
    principals: Annotated[Mapping[Name, Principal], Field(min_length=1, max_length=65_536)]
    """At most 65,536: with an API key each they just fit into the 16 MiB that the file may have."""
    issuers: Annotated[Mapping[Name, Issuer], Field(max_length=64)] = {}
    models: Annotated[Mapping[Name, ModelPolicy], Field(min_length=1, max_length=1024)]
    approvers: Annotated[Mapping[Name, Approver], Field(max_length=256)] = {}
    """Who may sign that a version of a model is good; `promotion` says of which."""
    shared_limits: LimitsAway = LimitsAway()
    unsafe_public_methods: tuple[str, ...] = ()
    """Methods that need no credential. Health checks of a load balancer are the usual reason."""

    @cached_property
    def digest(self) -> str:
        """SHA-256, hex, of the effective policy in canonical JSON; it stands in every record."""
        return hashlib.sha256(canonical_json(self.masked())).hexdigest()

    def masked(self) -> dict[str, Any]:
        """The effective policy, defaults filled in, as it may be shown: it holds HMACs of keys, never keys."""
        shown: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return shown

    def class_of(self, principal: str) -> str:
        """The priority class of a principal."""
        return self.tenants[self.principals[principal].tenant].priority_class

    def lane_of(self, principal: str) -> int:
        """The lane of a principal, 0 first."""
        return self.classes[self.class_of(principal)].lane

    def limits_of(self, principal: str) -> tuple[LimitSet, LimitSet]:
        """The principal's own limits and those it shares with its tenant."""
        found = self.principals[principal]
        return self.limits[found.limits], self.limits[self.tenants[found.tenant].limits]

    def api_keys(self) -> Iterator[tuple[str, ApiKey]]:
        """(principal, key) of every API key."""
        return ((name, key) for name, principal in self.principals.items() for key in principal.api_keys)

    def subjects(self) -> Iterator[tuple[str, Subject]]:
        """(principal, subject) of every JWT identity."""
        return ((name, subject) for name, principal in self.principals.items() for subject in principal.subjects)

    def certificate_names(self) -> Iterator[tuple[str, str]]:
        """(principal, SPIFFE id or DNS name) of every certificate identity."""
        return (
            (name, san) for name, principal in self.principals.items() for san in (*principal.spiffe, *principal.dns)
        )
