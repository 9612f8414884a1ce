"""The leaf that is put together from fragments is the canonical JSON of the same facts, whatever the facts are."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.admission.limiter import Decision
from gateway.auth.principal import Principal
from gateway.edge.service import note_caller
from gateway.request.completion import PATH_CHARACTERS_MAX
from gateway.request.record import Record, auth_fragment, quoted, refusal_sum, site_of
from ops.audit.log import entry

HEX64 = "c0" * 32
SITE = site_of("0.1.0", HEX64, "host/worker-0")

text = st.text(
    st.characters(exclude_categories=("Cs",)), min_size=1, max_size=64
)  # no lone surrogates: they are no text
hostile = st.one_of(
    text,
    st.sampled_from(
        ['"', "\\", '","kind":"served"', "\x00", "\x1f", "\x7f", "\u2028", "é", "\U0001f600", "</script>", "\ufeff"]
    ),
)
counts = st.integers(0, 2**53 - 1)
stages = st.dictionaries(st.sampled_from(["auth", "admit", "decode", "queue", "screen", "infer", "harden"]), counts)
decisions = st.builds(Decision, st.booleans(), hostile, counts, st.integers(-5, 2**40), counts, counts)


@given(hostile)
@example("plain ASCII, with a ~ and a #")
def test_a_quoted_text_is_canonical(value):
    assert quoted(value).encode() == entry.canonical(value)


@given(
    method=hostile,
    peer=hostile,
    model=st.none() | st.tuples(hostile, hostile, hostile),
    caller=st.none() | st.tuples(hostile, hostile, st.sampled_from(["api_key", "jwt", "mtls"])),
    limits=st.lists(decisions, max_size=4),
    batch=st.none() | st.tuples(counts, counts, counts, counts),
    deadline_us=st.none() | counts,
    trace=st.none() | st.just("0a" * 16),
    rows=counts,
    timings=stages,
    outcome=st.sampled_from(
        [("served", "allow", "OK", 0), ("refused", "refuse", "RATE_LIMITED", 8), ("failed", "error", "CANCELLED", 1)]
    ),
    time_ns=st.integers(0, 2**63 - 1),
    payload=st.booleans(),
    cached=st.sampled_from(["", "ab" * 16]),
    clock_ns=st.none() | st.integers(0, 2**63 - 1),
    pinned=st.booleans(),
)
def test_a_leaf_is_the_canonical_form_of_its_facts(  # noqa: PLR0917  hypothesis names them
    method,
    peer,
    model,
    caller,
    limits,
    batch,
    deadline_us,
    trace,
    rows,
    timings,
    outcome,
    time_ns,
    payload,
    cached,
    clock_ns,
    pinned,
):
    record = Record(b"\x07" * 16, method, "ModelInfer", HEX64, time_ns, 0)
    kind, decision, reason, status = outcome
    facts = {
        "build": "0.1.0",
        "config": HEX64,
        "decision": decision,
        "gateway": "host/worker-0",
        "id": "07" * 16,
        "kind": kind,
        "method": method,
        "peer": peer,
        "policy": HEX64,
        "reason": reason,
        "status": status,
        "time_ns": str(time_ns),
        "timings_us": timings,
        "v": 1,
    }
    record.peer = peer
    record.end(kind, decision, reason, status)
    record.deadline_us, record.trace, record.rows = deadline_us, trace, rows
    record.stages({stage: spent * 1000 for stage, spent in timings.items()})
    facts |= {name: value for name, value in (("deadline_us", deadline_us), ("trace", trace)) if value is not None}
    facts |= {"rows": rows} if rows else {}
    record.cached = cached
    facts |= {"cached": cached} if cached else {}
    record.pinned = pinned
    facts |= {"pinned": True} if pinned else {}
    for limit in limits:
        record.limited(limit, clock_ns)
    if limits:
        clock = {} if clock_ns is None else {"clock_ns": str(clock_ns)}
        facts["limits"] = [
            clock | {"decision": "admit" if limit.admitted else "refuse", "rule": limit.rule, "tokens": limit.remaining}
            for limit in limits
        ]
    if model is not None:
        name, version, engine = model
        record.model_json = entry.canonical(
            {"digest": HEX64, "engine": engine, "name": name, "version": version}
        ).decode()
        facts["model"] = {"digest": HEX64, "engine": engine, "name": name, "version": version}
    if caller is not None:
        credential, tenant, how = caller
        principal = Principal("somebody", tenant, "standard", 1, frozenset(), credential, how, None)
        record.auth_json = auth_fragment(principal, "ab" * 16)
        facts["auth"] = {"credential": credential, "method": how, "principal": "ab" * 16, "tenant": tenant}
    if batch is not None:
        batch_id, position, size, in_all = batch
        record.batch(batch_id, position, size, in_all)
        facts["batch"] = {"id": batch_id, "padded": in_all, "position": position, "rows": in_all, "size": size}
    if payload:
        sealed = {"bytes": 3, "ciphertext_sha256": HEX64, "commitment": HEX64}
        record.payload_json = f'{{"key":"{"aa" * 16}","request":{entry.canonical(sealed).decode()}}}'
        facts["payload"] = {"key": "aa" * 16, "request": sealed}
    leaf = record.leaf(SITE)
    assert leaf == entry.canonical(facts)
    entry.check(leaf)


@given(
    st.dictionaries(
        st.sampled_from(["CREDENTIAL_MISSING", "CREDENTIAL_INVALID", "REQUEST_TOO_LARGE"]),
        st.integers(0, 2**50),
        min_size=1,
    ),
    st.booleans(),
)
def test_a_sum_of_refusals_is_canonical(reasons, known):
    auth = {"credential": "k", "method": "api_key", "principal": "0a" * 16, "tenant": "é"} if known else None
    auth_json = entry.canonical(auth).decode() if known else ""
    leaf = refusal_sum(
        SITE, auth_json, reasons, id_hex="07" * 16, policy_digest=HEX64, time_ns=1_800_000_000_000_000_000
    )
    facts = ({"auth": auth} if known else {}) | {
        "build": "0.1.0",
        "config": HEX64,
        "count": sum(reasons.values()),
        "decision": "refuse",
        "gateway": "host/worker-0",
        "id": "07" * 16,
        "kind": "refused",
        "policy": HEX64,
        "reasons": reasons,
        "time_ns": "1800000000000000000",
        "v": 1,
    }
    assert leaf == entry.canonical(facts)
    entry.check(leaf)


def test_a_method_as_long_as_a_record_takes_fits_and_one_more_would_not():
    for length, fits in ((PATH_CHARACTERS_MAX, True), (PATH_CHARACTERS_MAX + 1, False)):
        record = Record(bytes(16), "m" * length, "", HEX64, 1, 0)
        record.end("refused", "refuse", "METHOD_UNIMPLEMENTED", 12)
        try:
            entry.check(record.leaf(SITE))
        except entry.EntryError:
            assert not fits
        else:
            assert fits


def test_the_caller_is_told_of_the_tightest_limit():
    record = Record(bytes(16), "m", "", HEX64, 1, 0)
    loose, tight = Decision(True, "loose", 10, 9, 1, 0), Decision(True, "tight", 5, 1, 1, 0)
    refused = Decision(False, "none left", 99, 50, 1, 7)
    for said in (loose, tight, loose):
        record.limited(said)
        assert record.rate in (loose, tight)
    assert record.rate is tight
    record.limited(refused)
    assert record.rate is refused


class Context:
    """What gRPC says of a call."""

    def __init__(self, peer: str, left_s: float | None) -> None:
        self.peer = lambda: peer
        self.time_remaining = lambda: left_s


@given(
    st.sampled_from(["ipv4:10.0.0.1:55", "ipv6:%5B::1%5D:1", "unix:", ""]),
    st.none() | st.floats(-1e18, 1e18, allow_nan=False),
)
@example("ipv4:10.0.0.1:55", 99_999_999 * 3600.0)  # the longest that a client can say
def test_whatever_a_caller_says_of_its_deadline_its_record_is_one(peer, left_s):
    record = Record(b"\x07" * 16, "/a/B", "ModelInfer", HEX64, 1, 0)
    note_caller(record, Context(peer, left_s), SimpleNamespace(clock_ns=lambda: 5))
    record.end("refused", "refuse", "RATE_LIMITED", 8)
    entry.check(record.leaf(SITE))
    assert (record.deadline_ns is None) == (left_s is None)
    if left_s is not None and 0 <= left_s < 1e9:
        assert abs(record.deadline_ns - 5 - left_s * 1e9) <= 1_000 + left_s
