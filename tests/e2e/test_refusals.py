"""The refusal table, row by row, as a client sees it, as the log holds it, and as the metrics count it.

All refusals are provoked once, then each is looked at from every side: that way one publication of the log serves all.
"""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
import jwt
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.rpc import error_details_pb2

from tests.e2e.caller import INFER, Caller, Reply, calling, images, infer_body, infer_request
from tests.e2e.running import Running, total, until

TRAILERS_BYTES_MAX = 4096
ENTRY_BYTES = 32  # what HTTP/2 counts for each header beside its text
OK = grpc.StatusCode


@dataclass(frozen=True, slots=True)
class Row:
    """What one provocation must give. `field` is the one that BadRequest names."""

    provoke: Callable[[Stage], Reply]
    code: grpc.StatusCode
    reason: str
    field: str = ""
    quota: str = ""
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """A running gateway and a channel to it."""

    running: Running
    caller: Caller

    def plenty(self, body: bytes, method: str = INFER) -> Reply:
        return self.by("plenty", body, method)

    def by(self, name: str, body: bytes, method: str = INFER) -> Reply:
        return self.caller.ask(method, body, metadata=self.running.site.bearer(name))

    def with_headers(self, *headers: tuple[str, str]) -> Reply:
        return self.caller.infer(infer_body(), metadata=headers)

    def token(self, token: str) -> Reply:
        return self.with_headers(("authorization", f"Bearer {token}"))


def image(value: float) -> bytes:
    """A request whose image has one pixel of this value."""
    changed = images()[:1].copy()
    changed[0, 3, 4] = value
    return infer_body(changed)


def tensor(**changes) -> bytes:
    """A request whose one input was changed after it was made."""
    request = infer_request()
    for name, value in changes.items():
        if name == "shape":
            del request.inputs[0].shape[:]
            request.inputs[0].shape.extend(value)
        elif name == "raw":
            request.raw_input_contents[0] = value
        elif name == "beside_raw":
            request.inputs[0].contents.fp32_contents.append(value)
        else:
            setattr(request.inputs[0], name, value)
    return request.SerializeToString()


def without_inputs() -> bytes:
    request = infer_request()
    del request.inputs[:]
    del request.raw_input_contents[:]
    return request.SerializeToString()


def ancient(site) -> str:
    return site.token(exp=datetime.now(UTC) - timedelta(hours=1), iat=datetime.now(UTC) - timedelta(hours=2))


def signed_with_our_public_key(site) -> str:
    """The classic confusion: the issuer's public key as the secret of a symmetric signature."""
    public = site.issuer_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return site.token(key=public, algorithm="HS256")


def unsigned() -> str:
    return jwt.encode({"iss": "https://issuer.test", "aud": "stockade", "sub": "svc"}, None, "none", {"kid": "test-1"})


def third_request(stage: Stage) -> Reply:
    for _ in range(2):
        assert stage.by("rated", infer_body()).code is OK.OK
    return stage.by("rated", infer_body())


def ninth_row(stage: Stage) -> Reply:
    assert stage.by("costly", infer_body(images()[:8])).code is OK.OK
    return stage.by("costly", infer_body())


def held_stream(stage: Stage) -> Reply:
    """A stream that stays open is a call in flight."""
    release = threading.Event()

    def bodies():
        yield infer_body()
        release.wait(30)

    call = stage.caller.stream(bodies(), metadata=stage.running.site.bearer("single"))
    try:
        next(call)  # the stream has its ticket now
        return stage.by("single", infer_body())
    finally:
        release.set()
        list(call)


def basic(text: str) -> tuple[str, str]:
    return "authorization", "Basic " + base64.b64encode(text.encode()).decode()


UNAUTHENTICATED = (OK.UNAUTHENTICATED, "CREDENTIAL_INVALID", "", "", True)
INVALID = (OK.INVALID_ARGUMENT, "TENSOR_INVALID")
UNKNOWN = (OK.NOT_FOUND, "MODEL_UNKNOWN")
LARGE = (OK.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
MALFORMED = (OK.INVALID_ARGUMENT, "MESSAGE_MALFORMED")
PUBLIC = "/inference.GRPCInferenceService/"

ROWS = {
    "no credential": Row(lambda s: s.with_headers(), OK.UNAUTHENTICATED, "CREDENTIAL_MISSING", anonymous=True),
    "wrong secret": Row(lambda s: s.with_headers(("x-api-key", "plenty." + "A" * 43)), *UNAUTHENTICATED),
    "unknown key": Row(lambda s: s.with_headers(("x-api-key", "nobody." + "A" * 43)), *UNAUTHENTICATED),
    "not base64": Row(lambda s: s.with_headers(("authorization", "Basic ???")), *UNAUTHENTICATED),
    "basic, wrong secret": Row(lambda s: s.with_headers(basic("plenty:wrong")), *UNAUTHENTICATED),
    "unknown scheme": Row(lambda s: s.with_headers(("authorization", "Digest a=b")), *UNAUTHENTICATED),
    "header twice": Row(lambda s: s.with_headers(*s.running.site.bearer("plenty") * 2), *UNAUTHENTICATED),
    "two identities": Row(
        lambda s: s.with_headers(*s.running.site.bearer("plenty"), ("x-api-key", s.running.site.keys["rival"])),
        *UNAUTHENTICATED,
    ),
    "only x-forwarded headers": Row(
        lambda s: s.with_headers(("x-forwarded-user", "operator"), ("x-ray-user", "operator")),
        OK.UNAUTHENTICATED,
        "CREDENTIAL_MISSING",
        anonymous=True,
    ),
    "expired key": Row(
        lambda s: s.by("expired", infer_body()), OK.UNAUTHENTICATED, "CREDENTIAL_EXPIRED", anonymous=True
    ),
    "revoked key": Row(lambda s: s.by("revoked", infer_body()), *UNAUTHENTICATED),
    "token, alg none": Row(lambda s: s.token(unsigned()), *UNAUTHENTICATED),
    "token, wrong issuer": Row(lambda s: s.token(s.running.site.token(iss="https://other.test")), *UNAUTHENTICATED),
    "token, wrong audience": Row(lambda s: s.token(s.running.site.token(aud="other")), *UNAUTHENTICATED),
    "token, unknown subject": Row(lambda s: s.token(s.running.site.token(sub="nobody")), *UNAUTHENTICATED),
    "token, unknown key id": Row(lambda s: s.token(s.running.site.token(kid="other")), *UNAUTHENTICATED),
    "token, another's key": Row(
        lambda s: s.token(s.running.site.token(key=Ed25519PrivateKey.generate())), *UNAUTHENTICATED
    ),
    "token, public key as secret": Row(lambda s: s.token(signed_with_our_public_key(s.running.site)), *UNAUTHENTICATED),
    "token, expired": Row(
        lambda s: s.token(ancient(s.running.site)), OK.UNAUTHENTICATED, "CREDENTIAL_EXPIRED", anonymous=True
    ),
    "metadata too large": Row(
        lambda s: s.with_headers(*s.running.site.bearer("plenty"), ("x-flood", "f" * 9000)), *LARGE, anonymous=True
    ),
    "method forbidden": Row(lambda s: s.by("onlooker", infer_body()), OK.PERMISSION_DENIED, "METHOD_FORBIDDEN"),
    "method not offered": Row(
        lambda s: s.plenty(b"", PUBLIC + "SystemSharedMemoryStatus"), OK.UNIMPLEMENTED, "METHOD_UNIMPLEMENTED"
    ),
    "method unknown": Row(lambda s: s.plenty(b"", "/no.such/Thing"), OK.UNIMPLEMENTED, "METHOD_UNIMPLEMENTED"),
    "method name of 600 letters": Row(
        lambda s: s.plenty(b"", "/a/" + "b" * 600), OK.UNIMPLEMENTED, "METHOD_UNIMPLEMENTED"
    ),
    "model unknown": Row(lambda s: s.plenty(infer_body(model="nothing")), *UNKNOWN),
    "model of another tenant": Row(lambda s: s.plenty(infer_body(model="tiny")), *UNKNOWN),
    "model of another tenant, other way": Row(lambda s: s.by("rival", infer_body()), *UNKNOWN),
    "version unknown": Row(lambda s: s.plenty(infer_body(version="2")), *UNKNOWN),
    "random bytes": Row(lambda s: s.plenty(b"\xff\xfe\xfd" * 50), *MALFORMED),
    "truncated": Row(lambda s: s.plenty(infer_body()[:-5]), *MALFORMED),
    "deeper than protobuf goes": Row(lambda s: s.plenty(b"\x0b" * 5000), *MALFORMED),
    "wrong shape": Row(lambda s: s.plenty(tensor(shape=[1, 27, 28])), *INVALID, "inputs[0].shape[1]"),
    "wrong rank": Row(lambda s: s.plenty(tensor(shape=[1, 784])), *INVALID, "inputs[0].shape"),
    "no rows": Row(lambda s: s.plenty(infer_body(np.zeros((0, 28, 28)))), *INVALID, "inputs[0].shape[0]"),
    "negative dimension": Row(lambda s: s.plenty(tensor(shape=[-1, 28, 28])), *INVALID, "inputs[0].shape[0]"),
    "overflowing product": Row(lambda s: s.plenty(tensor(shape=[2**62, 28, 28])), *LARGE),
    "wrong datatype": Row(lambda s: s.plenty(tensor(datatype="FP64")), *INVALID, "inputs[0].datatype"),
    "unknown datatype": Row(lambda s: s.plenty(tensor(datatype="FP31")), *INVALID, "inputs[0].datatype"),
    "wrong name": Row(lambda s: s.plenty(tensor(name="picture")), *INVALID, "inputs[0].name"),
    "raw too short": Row(lambda s: s.plenty(tensor(raw=b"\0" * 3135)), *INVALID, "raw_input_contents[0]"),
    "raw too long": Row(lambda s: s.plenty(tensor(raw=b"\0" * 3137)), *INVALID, "raw_input_contents[0]"),
    "contents beside raw": Row(lambda s: s.plenty(tensor(beside_raw=0.5)), *INVALID, "inputs[0].contents"),
    "no input": Row(lambda s: s.plenty(without_inputs()), *INVALID, "inputs[image]"),
    "NaN": Row(lambda s: s.plenty(image(np.nan)), *INVALID, "raw_input_contents[0]"),
    "Inf": Row(lambda s: s.plenty(image(-np.inf)), *INVALID, "raw_input_contents[0]"),
    "out of range": Row(lambda s: s.plenty(image(1.0001)), *INVALID, "raw_input_contents[0]"),
    "rows, one too many": Row(lambda s: s.plenty(infer_body(np.zeros((257, 28, 28)))), *LARGE),
    "message, one byte too many": Row(lambda s: s.plenty(padded(4 * 2**20 + 1)), *LARGE),
    "more cost than can ever be": Row(lambda s: s.by("costly", infer_body(images()[:9])), *LARGE),
    "third request of two": Row(third_request, OK.RESOURCE_EXHAUSTED, "RATE_LIMITED", quota="principal-requests"),
    "ninth row of eight": Row(ninth_row, OK.RESOURCE_EXHAUSTED, "RATE_LIMITED", quota="principal-cost"),
    "second call of one": Row(held_stream, OK.RESOURCE_EXHAUSTED, "RATE_LIMITED", quota="principal-in-flight"),
    "a screen says no": Row(lambda s: s.plenty(infer_body(noise())), OK.PERMISSION_DENIED, "INPUT_REJECTED"),
}
RETRIED = {"RATE_LIMITED"}


def noise() -> np.ndarray:
    return np.random.default_rng(7).random((1, 28, 28), np.float32)


def padded(nbytes: int) -> bytes:
    """A well-formed request of exactly so many bytes: its id is as long as it takes."""
    body = infer_body()
    spare = nbytes - len(body)
    request_id = b"i" * (spare - 5)  # one byte for the tag, four for a length of up to 2^28
    length = len(request_id)
    varint = bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14 & 127 | 128, length >> 21])
    made = body + b"\x1a" + varint + request_id
    assert len(made) == nbytes
    return made


@dataclass(frozen=True, slots=True)
class Provoked:
    replies: dict[str, Reply]
    before: dict
    after: dict
    entries: list[dict]

    def counted(self, name: str, **labels: str) -> float:
        return total(self.after, name, **labels) - total(self.before, name, **labels)


def everything_is_counted(running: Running, caller: Caller) -> None:
    """Until what has ended is in the metrics: calls are written there in the order of their ends, a moment later."""
    counted = running.counted("grpc_server_handled_total")
    assert Stage(running, caller).plenty(infer_body()).code is OK.OK
    until(lambda: running.counted("grpc_server_handled_total") > counted, "a call is not in the metrics")


def strangers_are_summed(running: Running, caller: Caller) -> None:
    """Until the refusals of strangers before this are in the log: a sum takes all there are, also this one."""

    def all_summed() -> bool:
        summed = sum(entry.get("reasons", {}).get("CREDENTIAL_MISSING", 0) for entry in running.entries())
        return summed == running.counted("stockade_requests_total", reason="CREDENTIAL_MISSING", outcome="refused")

    assert Stage(running, caller).with_headers().reason == "CREDENTIAL_MISSING"
    everything_is_counted(running, caller)
    until(all_summed, "the refusals of strangers are not in the log")


@pytest.fixture(scope="module")
def provoked(stand) -> Provoked:
    def all_counted() -> bool:
        return total(stand.series(), "stockade_requests_total", outcome="refused") >= before_refused + len(ROWS)

    def all_published() -> list[dict]:
        entries = stand.entries(first)
        summed = sum(entry.get("count", 0) for entry in entries)
        return entries if last.request_id in {entry["id"] for entry in entries} and summed >= strangers else []

    with ExitStack() as stack:
        caller = stack.enter_context(calling(stand.site, stand.facts["data"]))
        strangers_are_summed(stand, caller)
        first = len(stand.entries())
        before = stand.series()
        before_refused = total(before, "stockade_requests_total", outcome="refused")
        replies = {name: row.provoke(Stage(stand, caller)) for name, row in ROWS.items()}
        until(all_counted, "the refusals are not in the metrics")
        after = stand.series()
        strangers = sum(row.anonymous for row in ROWS.values())
        last = Stage(stand, caller).plenty(infer_body())  # what was recorded before it is published with it
        entries = until(all_published, "the refusals are not in the log")
    return Provoked(replies, before, after, entries)


@pytest.mark.parametrize("name", ROWS)
def test_the_client_sees_code_and_reason(provoked, name):
    row, reply = ROWS[name], provoked.replies[name]
    assert (reply.code, reply.reason) == (row.code, row.reason), reply
    assert reply.details.startswith(f"[{row.reason}] ")
    assert f"(request_id={reply.request_id})" in reply.details


@pytest.mark.parametrize("name", ROWS)
def test_the_status_details_say_it_for_machines(provoked, name):
    row, reply = ROWS[name], provoked.replies[name]
    info = reply.detail(error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (row.reason, "stockade")
    assert (reply.detail(error_details_pb2.RetryInfo) is not None) == (row.reason in RETRIED)
    bad = reply.detail(error_details_pb2.BadRequest)
    assert ([violation.field for violation in bad.field_violations] if bad else [""]) == [row.field]
    quota = reply.detail(error_details_pb2.QuotaFailure)
    assert ([violation.subject for violation in quota.violations] if quota else [""]) == [row.quota]


@pytest.mark.parametrize("name", ROWS)
def test_the_trailers_are_small_and_say_whether_to_retry(provoked, name):
    row, reply = ROWS[name], provoked.replies[name]
    size = sum(len(key) + len(value) + ENTRY_BYTES for key, value in reply.trailers.items()) + 3 * len(reply.details)
    assert size < TRAILERS_BYTES_MAX
    pushback_ms = int(reply.trailers["grpc-retry-pushback-ms"])
    if row.reason in RETRIED:
        retry = reply.detail(error_details_pb2.RetryInfo).retry_delay
        assert pushback_ms == retry.ToMilliseconds() > 0
    else:
        assert pushback_ms == -1
    assert ("x-ratelimit-limit" in reply.trailers) <= (not row.anonymous)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.anonymous])
def test_a_known_caller_has_a_record_of_it(provoked, stand, name):
    row, reply = ROWS[name], provoked.replies[name]
    (entry,) = [entry for entry in provoked.entries if entry["id"] == reply.request_id]
    assert (entry["kind"], entry["decision"], entry["reason"]) == ("refused", "refuse", row.reason)
    assert entry["status"] == row.code.value[0]
    assert entry["auth"]["method"] == "api_key"
    assert entry["policy"] == stand.facts["policy"] == reply.trailers["x-stockade-policy"]
    index = int(reply.trailers["x-stockade-audit-index"])
    assert stand.entries(index)[0]["id"] == reply.request_id


def test_strangers_are_summed_and_have_no_record_of_their_own(provoked):
    strangers = Counter(row.reason for row in ROWS.values() if row.anonymous)
    summed = Counter()
    for entry in provoked.entries:
        assert sum(entry.get("reasons", {}).values()) == entry.get("count", 0)
        summed.update(entry.get("reasons", {}))
    assert summed == strangers
    theirs = {provoked.replies[name].request_id for name, row in ROWS.items() if row.anonymous}
    assert not theirs & {entry["id"] for entry in provoked.entries}
    assert all("x-stockade-audit-index" not in provoked.replies[name].trailers for name in ROWS if ROWS[name].anonymous)


@pytest.mark.parametrize("reason", sorted({row.reason for row in ROWS.values()}))
def test_each_reason_is_counted_once_a_refusal(provoked, reason):
    rows = [row for row in ROWS.values() if row.reason == reason]
    assert provoked.counted("stockade_requests_total", reason=reason, outcome="refused") == len(rows)


def test_refused_credentials_are_counted_by_kind(provoked):
    kinds = {"none": 2, "jwt": 8, "api_key": 9}
    for kind, count in kinds.items():
        assert provoked.counted("stockade_auth_failures_total", method=kind) == count, kind
    assert provoked.counted("stockade_auth_failures_total", reason="CREDENTIAL_EXPIRED") == 2


def test_a_model_of_another_and_one_that_is_not_there_read_the_same(provoked):
    names = ("model unknown", "model of another tenant", "model of another tenant, other way", "version unknown")
    assert len({provoked.replies[name].sentence for name in names}) == 1
    assert len({frozenset(provoked.replies[name].trailers) for name in names}) == 1


def test_what_was_too_large_is_named(provoked):
    sentences = {
        name: provoked.replies[name].sentence for name, row in ROWS.items() if row.reason == "REQUEST_TOO_LARGE"
    }
    assert sentences["message, one byte too many"].endswith(f"message (at most {4 * 2**20})")
    assert sentences["rows, one too many"].endswith("rows (at most 256)")
    assert sentences["more cost than can ever be"].endswith("cost (at most 8)")
    assert sentences["metadata too large"].endswith(f"metadata (at most {8 * 2**10})")


def test_nothing_that_was_sent_comes_back(provoked):
    for reply in provoked.replies.values():
        for trailer in (reply.details, *map(str, reply.trailers.values())):
            assert "nothing" not in trailer
            assert "picture" not in trailer
            assert "1.0001" not in trailer


def test_at_its_limit_a_request_is_taken(stand):
    """One short of what is refused above."""
    with calling(stand.site, stand.facts["data"], stand.site.bearer("plenty")) as caller:
        assert caller.infer(infer_body(images()[:256])).code is OK.OK
        assert caller.infer(image(1.0)).reason in ("OK", "INPUT_REJECTED")
        read = caller.infer(padded(4 * 2**20))  # of a size that is read, and then found to have too long an id
        assert (read.reason, "message" in read.sentence) == ("REQUEST_TOO_LARGE", False), read.details
