"""What a request can be refused with, and how each refusal looks on the wire: one table.

```
Refusal
├── CredentialMissing, CredentialInvalid, CredentialExpired     who is it?
├── Isolated                                                    are they kept out?
├── MethodForbidden, ModelUnknown, MethodUnimplemented          may they, and is it there?
├── ModelUnloaded, ModelNotLoaded                               is it in service, and can it be?
├── MalformedMessage, ArgumentInvalid, RequestTooLarge          is the request one?
│   └── TensorInvalid                                           ... that fits the model?
├── InputRejected                                               a screen says no
├── ProofOfWorkWanted                                           ... or that it has to be worked for
├── DeadlinePassed, DeadlineUnmeetable, Cancelled               is anybody waiting for the answer?
├── NotAcknowledged                                             ... and is its record where it has to be?
├── ModelError                                                  the model, or our own code, failed
├── BackendTimedOut                                             who runs the model is silent, and may be at work still
└── RetryLater                                                  the same request may succeed later
    ├── RateLimited, QuotaExceeded, QueueFull                   ... when the caller has room again
    └── Overloaded, Draining, ModelLoading, LimitsUnavailable, ScreenUnavailable, AuditUnavailable, ReplicaBehind,
        BackendUnavailable
```

Rules:
- Refusals carry data, never prose. A caller reads a fixed sentence, for a bad tensor also the path of the field and a
  fixed problem text. Nothing of what was sent comes back, nor any `str(exc)`.
- Errors of the packages below stand in the same table. An exception that is not in it is a fault of ours and reads
  MODEL_ERROR.
- `details` begins with the reason in brackets, because some clients show nothing else (tritonclient drops trailers).

See google.rpc (error_details.proto, status.proto) and gRFC A6 for the pushback.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

import defenses.errors
import ops.audit.errors
import serving.errors

DOMAIN = "stockade"
NEVER_MS = -1  # a negative pushback: do not retry
QUOTED_CHARACTERS_MAX = 200  # of a field path or a rule's name; keeps all trailers below 4 KB


class Refusal(Exception):
    """Root of this package's errors: the request gets no answer, for a reason in the table."""


class CredentialMissing(Refusal):
    """No credential was presented."""


class CredentialInvalid(Refusal):
    """The credential is not one of ours. `problem` is for the log: the caller learns only that it was refused."""

    def __init__(self, problem: str = "") -> None:
        super().__init__(problem)
        self.problem = problem


class CredentialExpired(Refusal):
    """The credential was one of ours."""


class Isolated(Refusal):
    """An operator keeps this caller out. Says neither why nor until when.

    It has a reason of its own: nothing that a caller sends brings it about, so it tells an attacker no more than a
    revoked key would, and a client that is kept out by mistake should stop trying and ask, not wait for a rate limit.
    What the policy does to an account by itself, for what it sent, is none of this.
    """


class MethodForbidden(Refusal):
    """The principal has no right to this method."""


class ModelUnknown(Refusal):
    """No such model, or none that this principal may know of."""


class ModelUnloaded(Refusal):
    """The version is the caller's to use, and an operator has taken it out of service."""


class ModelNotLoaded(Refusal):
    """A model cannot be put into or out of service: its bundle will not do, or a worker refused. Our log says why."""


class MethodUnimplemented(Refusal):
    """The method exists in the protocol and is not offered."""


class MalformedMessage(Refusal):
    """The bytes are not a message of the expected type."""


class ArgumentInvalid(Refusal):
    """A field of the request cannot be what it is. `field` is its path, `problem` one of our texts."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class TensorInvalid(ArgumentInvalid):
    """The request does not fit the model; `field` is a path such as `inputs[0].shape`."""


class RequestTooLarge(Refusal):
    """The request is beyond a limit of the gateway: `what` (a fixed text) may be `limit` at most."""

    def __init__(self, what: str = "message", limit: int | None = None) -> None:
        super().__init__(what, limit)
        self.what = what
        self.limit = limit


class InputRejected(Refusal):
    """The policy refuses the input. Says neither which screen nor how close."""


class ProofOfWorkWanted(Refusal):
    """The request has to come with a proof of work for `challenge`."""

    def __init__(self, challenge: str) -> None:
        super().__init__(challenge)
        self.challenge = challenge


class DeadlinePassed(Refusal):
    """The caller's deadline passed before there was an answer."""


class DeadlineUnmeetable(Refusal):
    """The answer could not be there in time, so nothing was started."""


class NotAcknowledged(Refusal):
    """The record of the answer is durable, and was not in time where the policy wants it before an answer leaves."""


class Cancelled(Refusal):
    """The caller hung up. Nobody reads this one but the record."""


class ModelError(Refusal):
    """The model raised, or answered something that its manifest does not promise."""


class BackendTimedOut(Refusal):
    """Who runs the model said nothing for as long as it has. Whether it ran is unknown."""


class RetryLater(Refusal):
    """The same request may succeed after `retry_after_ms`."""

    def __init__(self, retry_after_ms: int = 1000) -> None:
        super().__init__(retry_after_ms)
        self.retry_after_ms = retry_after_ms


class RateLimited(RetryLater):
    """A rate or concurrency limit of the principal or tenant has no room. `rule` is its name in the policy."""

    def __init__(self, rule: str = "", retry_after_ms: int = 1000) -> None:
        super().__init__(retry_after_ms)
        self.rule = rule


class QuotaExceeded(RateLimited):
    """A budget of the principal or tenant is spent."""


class QueueFull(RetryLater):
    """The queue of the model is at its bound, or the request was displaced from it."""


class Overloaded(RetryLater):
    """The gateway has more requests in flight than it may."""


class Draining(RetryLater):
    """The gateway is shutting down and takes nothing new."""


class ModelLoading(RetryLater):
    """The model is there and cannot answer yet."""


class LimitsUnavailable(RetryLater):
    """The limits that gateways share cannot be asked for, and the policy says to refuse then."""


class ScreenUnavailable(RetryLater):
    """A screen that must judge cannot, and the policy fails closed."""


class AuditUnavailable(RetryLater):
    """There is no durable record, so there is no answer."""


class ReplicaBehind(RetryLater):
    """The log's replica is further behind than it may be, so nothing more is taken on."""


class BackendUnavailable(RetryLater):
    """The engine did not accept the request."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one exception class looks on the wire."""

    code: grpc.StatusCode
    reason: str
    sentence: str
    detail: Callable[[Any], tuple[str, tuple[Message, ...]]] | None = None  # text after the sentence, further details
    retry_after_ms: Callable[[Any], int] | None = None  # None: nothing should send the same request again by itself
    trailers: Callable[[Any], tuple[tuple[str, str], ...]] | None = None  # further ones


@dataclass(frozen=True, slots=True)
class Rendered:
    """A refusal as gRPC sends it. `trailers` are the ones that belong to the refusal; the service adds its own."""

    code: grpc.StatusCode
    details: str
    trailers: tuple[tuple[str, str | bytes], ...]
    reason: str


def clipped(text: str) -> str:
    """`text` in printable ASCII and bounded: declared names and rules come from files that others write."""
    plain = "".join(character if " " <= character <= "~" else "?" for character in text[: QUOTED_CHARACTERS_MAX + 1])
    return plain if len(plain) <= QUOTED_CHARACTERS_MAX else plain[: QUOTED_CHARACTERS_MAX - 3] + "..."


def bad_field(exc: ArgumentInvalid) -> tuple[str, tuple[Message, ...]]:
    field = clipped(exc.field)
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=exc.problem)
    return f": {field} {exc.problem}", (error_details_pb2.BadRequest(field_violations=[violation]),)


def exceeded_limit(exc: RequestTooLarge) -> tuple[str, tuple[Message, ...]]:
    return f": {clipped(exc.what)}" + ("" if exc.limit is None else f" (at most {exc.limit})"), ()


def wanted_proof(exc: ProofOfWorkWanted) -> tuple[tuple[str, str], ...]:
    return (("x-stockade-challenge", exc.challenge),)


def spent_rule(exc: RateLimited) -> tuple[str, tuple[Message, ...]]:
    violation = error_details_pb2.QuotaFailure.Violation(subject=clipped(exc.rule), description="no room left")
    return "", (error_details_pb2.QuotaFailure(violations=[violation]),)


def its_own(exc: RetryLater | serving.errors.QueueFull) -> int:
    return exc.retry_after_ms


def a_second(_: Exception) -> int:
    return 1000


def _rows() -> dict[type[Exception], Row]:
    code = grpc.StatusCode
    queue_full = Row(code.RESOURCE_EXHAUSTED, "QUEUE_FULL", "The queue of the model is full.", None, its_own)
    screen_gone = Row(code.UNAVAILABLE, "SCREEN_UNAVAILABLE", "The input cannot be screened now.", None, its_own)
    audit_gone = Row(code.UNAVAILABLE, "AUDIT_UNAVAILABLE", "The answer cannot be recorded now.", None, its_own)
    replica_behind = Row(code.UNAVAILABLE, "REPLICA_BEHIND", "The audit log is not replicated in time.", None, its_own)
    not_elsewhere = "The record of the answer was not replicated or witnessed in time."
    draining = Row(code.UNAVAILABLE, "DRAINING", "The gateway is shutting down.", None, its_own)
    backend_gone = Row(code.UNAVAILABLE, "BACKEND_UNAVAILABLE", "No replica took the request.", None, its_own)
    not_loaded = "That cannot be done with this model; look for the request's id in the log."
    backend_silent = Row(code.UNAVAILABLE, "BACKEND_TIMED_OUT", "Who runs the model did not answer in time.")
    return {
        CredentialMissing: Row(code.UNAUTHENTICATED, "CREDENTIAL_MISSING", "A credential is required."),
        CredentialInvalid: Row(code.UNAUTHENTICATED, "CREDENTIAL_INVALID", "The credential was not accepted."),
        CredentialExpired: Row(code.UNAUTHENTICATED, "CREDENTIAL_EXPIRED", "The credential has expired."),
        Isolated: Row(code.PERMISSION_DENIED, "ISOLATED", "Your access is suspended; ask who runs this gateway."),
        MethodForbidden: Row(code.PERMISSION_DENIED, "METHOD_FORBIDDEN", "You may not call this method."),
        ModelUnknown: Row(code.NOT_FOUND, "MODEL_UNKNOWN", "There is no such model for you."),
        ModelUnloaded: Row(code.NOT_FOUND, "MODEL_UNLOADED", "The model is out of service."),
        ModelNotLoaded: Row(code.FAILED_PRECONDITION, "MODEL_NOT_LOADED", not_loaded),
        MethodUnimplemented: Row(code.UNIMPLEMENTED, "METHOD_UNIMPLEMENTED", "This method is not offered."),
        MalformedMessage: Row(code.INVALID_ARGUMENT, "MESSAGE_MALFORMED", "The body is not a message of this method."),
        ArgumentInvalid: Row(code.INVALID_ARGUMENT, "ARGUMENT_INVALID", "The request cannot be met", bad_field),
        TensorInvalid: Row(code.INVALID_ARGUMENT, "TENSOR_INVALID", "The request does not fit the model", bad_field),
        RequestTooLarge: Row(code.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", "The request is too large", exceeded_limit),
        InputRejected: Row(code.PERMISSION_DENIED, "INPUT_REJECTED", "The input was not accepted."),
        ProofOfWorkWanted: Row(
            code.RESOURCE_EXHAUSTED, "PROOF_OF_WORK_WANTED", "A proof of work is wanted.", None, None, wanted_proof
        ),
        DeadlinePassed: Row(code.DEADLINE_EXCEEDED, "DEADLINE_PASSED", "The deadline has passed."),
        DeadlineUnmeetable: Row(code.DEADLINE_EXCEEDED, "DEADLINE_UNMEETABLE", "The deadline is too near."),
        NotAcknowledged: Row(code.DEADLINE_EXCEEDED, "NOT_ACKNOWLEDGED", not_elsewhere),
        Cancelled: Row(code.CANCELLED, "CANCELLED", "The caller cancelled the request."),
        ModelError: MODEL_ERROR,
        BackendTimedOut: backend_silent,
        RateLimited: Row(code.RESOURCE_EXHAUSTED, "RATE_LIMITED", "A limit of yours is reached.", spent_rule, its_own),
        QuotaExceeded: Row(code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", "Your budget is spent.", spent_rule, its_own),
        QueueFull: queue_full,
        Overloaded: Row(code.UNAVAILABLE, "OVERLOADED", "The gateway is overloaded.", None, its_own),
        Draining: draining,
        ModelLoading: Row(code.UNAVAILABLE, "MODEL_LOADING", "The model is being loaded.", None, its_own),
        LimitsUnavailable: Row(code.UNAVAILABLE, "LIMITS_UNAVAILABLE", "Limits cannot be checked now.", None, its_own),
        ScreenUnavailable: screen_gone,
        AuditUnavailable: audit_gone,
        ReplicaBehind: replica_behind,
        BackendUnavailable: backend_gone,
        serving.errors.QueueFull: queue_full,
        serving.errors.BackendFailed: MODEL_ERROR,
        serving.errors.BackendUnavailable: replace(backend_gone, retry_after_ms=a_second),
        serving.errors.DeploymentStale: replace(backend_gone, retry_after_ms=a_second),
        serving.errors.BackendTimedOut: backend_silent,
        serving.errors.GraphRejected: MODEL_ERROR,
        serving.errors.BatcherClosed: replace(draining, retry_after_ms=a_second),
        serving.errors.EngineClosed: replace(draining, retry_after_ms=a_second),
        defenses.errors.EvidenceInvalid: MODEL_ERROR,
        defenses.errors.ScreenFailed: replace(screen_gone, retry_after_ms=a_second),
        defenses.errors.ScreenMissing: replace(screen_gone, retry_after_ms=a_second),
        ops.audit.errors.AuditUnavailable: replace(audit_gone, retry_after_ms=a_second),
        ops.audit.errors.KeyStoreError: replace(audit_gone, retry_after_ms=a_second),
        ops.audit.errors.KeyMissing: replace(audit_gone, retry_after_ms=a_second),
    }


MODEL_ERROR = Row(grpc.StatusCode.INTERNAL, "MODEL_ERROR", "The request failed inside; look for its id in the log.")
TABLE = MappingProxyType(_rows())


def row_of(exc: BaseException) -> Row:
    """The row of the nearest class of `exc` that has one; MODEL_ERROR for everything else."""
    for kind in type(exc).__mro__:
        row = TABLE.get(kind)
        if row is not None:
            return row
    return MODEL_ERROR


def render(exc: BaseException, request_id: str) -> Rendered:
    """Turn any exception into what the caller may see of it."""
    row = row_of(exc)
    text, further = row.detail(exc) if row.detail is not None else ("", ())
    details = f"[{row.reason}] {row.sentence}{text} (request_id={request_id})"
    pushback_ms = NEVER_MS if row.retry_after_ms is None else max(0, row.retry_after_ms(exc))
    status = status_pb2.Status(code=row.code.value[0], message=details)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN))
    if row.retry_after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(pushback_ms)
        status.details.add().Pack(retry)
    for message in further:
        status.details.add().Pack(message)
    trailers = (
        ("grpc-status-details-bin", status.SerializeToString()),
        ("grpc-retry-pushback-ms", str(pushback_ms)),
        *(() if row.trailers is None else row.trailers(exc)),
    )
    return Rendered(row.code, details, trailers, row.reason)
