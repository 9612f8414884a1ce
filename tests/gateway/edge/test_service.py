"""What a caller sees of a failure inside, and who a call over two kinds of credential is."""

from __future__ import annotations

import grpc
import pytest

import gateway.edge.metadata
from gateway import errors
from gateway.auth.principal import Presented
from gateway.edge import health
from gateway.edge.methods import data_methods
from gateway.edge.service import Stream, Unary, note_caller
from gateway.request.completion import refuse
from gateway.request.record import Record
from ops.audit.log import entry as entries
from tests.gateway.rig import ended, image, open_rig, tiny_body, until

CODE = grpc.StatusCode
SECRET = "a text that only the log's reader may see"
METADATA = "/inference.GRPCInferenceService/ServerMetadata"


def call(rig, path: str, body: bytes = b"", caller: str = "plenty"):
    return rig.channel.unary_unary(path)(body, metadata=rig.site.bearer(caller))


async def test_the_text_of_an_exception_reaches_neither_the_caller_nor_the_log(rig, monkeypatch):
    def fails(_: str) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(gateway.edge.metadata, "server_metadata", fails)
    reply = await ended(call(rig, METADATA))
    assert (reply.code, reply.reason) == (CODE.INTERNAL, "MODEL_ERROR")
    assert SECRET not in str(reply)
    assert SECRET not in rig.stderr.getvalue()
    assert '"event":"request-failed"' in rig.stderr.getvalue()
    assert reply.request_id in rig.stderr.getvalue()
    (entry,) = rig.sink.records()
    assert (entry["kind"], entry["reason"], entry["id"]) == ("failed", "MODEL_ERROR", reply.request_id)
    await until(lambda: rig.counted("grpc_server_handled_total", grpc_code="INTERNAL") == 1)


async def test_a_stream_that_fails_inside_says_no_more_than_a_call(rig, monkeypatch):
    def fails(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(health, "status_of", fails)
    stream = rig.channel.stream_stream("/grpc.health.v1.Health/Watch")([b""], metadata=rig.site.bearer("plenty"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is CODE.INTERNAL
    assert SECRET not in str(caught.value) + rig.stderr.getvalue()


@pytest.mark.parametrize("path", sorted(data_methods(reflection=True)))
async def test_every_call_ends_once_in_record_and_metrics(rig, path):
    method = data_methods(reflection=True)[path]
    if isinstance(method, Unary):
        await ended(call(rig, path, caller="kiosk-7"))
    else:
        stream = rig.channel.stream_stream(path)([], metadata=rig.site.bearer("kiosk-7"))
        try:
            assert await stream.read() is grpc.aio.EOF
        except grpc.aio.AioRpcError as refused:
            assert refused.code() is not CODE.INTERNAL  # noqa: PT017  either way it has ended, and not by a fault
    await until(lambda: rig.counted("stockade_requests_total"))
    assert len(rig.sink.records(method=path)) == len(rig.sink.entries) == 1
    name = path.rpartition("/")[2]
    service = path.split("/")[1]
    assert rig.counted("grpc_server_started_total", grpc_method=name, grpc_service=service) == 1
    assert rig.counted("grpc_server_handled_total", grpc_method=name, grpc_service=service) == 1
    assert rig.counted("stockade_requests_total") == 1


async def test_a_public_method_needs_no_credential_and_is_recorded_as_nobody(made_site, tmp_path):
    def public(policy) -> None:
        policy["unsafe_public_methods"] = ["Health"]

    async with open_rig(made_site, tmp_path, policy=public) as rig:
        reply = await ended(rig.channel.unary_unary("/grpc.health.v1.Health/Check")(b""))
        assert reply.code is CODE.OK
        (entry,) = rig.sink.records()
        assert entry["auth"]["method"] == "none"
        refused = await ended(rig.channel.unary_unary(METADATA)(b""))
        assert refused.reason == "CREDENTIAL_MISSING"
        wrong = await ended(
            rig.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", metadata=(("x-api-key", "plenty.wrong"),))
        )
        assert wrong.reason == "CREDENTIAL_INVALID"


async def test_the_refusal_of_a_stranger_does_not_wait_for_the_log(rig):
    rig.sink.holding = True
    reply = await ended(rig.channel.unary_unary(METADATA)(b""))
    assert reply.reason == "CREDENTIAL_MISSING"
    assert rig.gw.sums.waiting == {"": {"CREDENTIAL_MISSING": 1}}


async def test_the_table_of_methods_knows_every_right_of_the_policy():
    kinds = {type(method) for method in data_methods(reflection=True).values()}
    assert kinds == {Unary, Stream}
    assert not [path for path in data_methods(reflection=False) if "reflection" in path]


async def test_reflection_can_be_switched_off_and_is_then_a_method_like_any_unknown(rig):
    stream = rig.channel.stream_stream("/grpc.reflection.v2.ServerReflection/ServerReflectionInfo")(
        [b""], metadata=rig.site.bearer("plenty")
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is CODE.UNIMPLEMENTED


async def test_a_deadline_and_a_peer_stand_in_the_record(rig):
    await ended(rig.infer(tiny_body(image(0.5)), timeout=20))
    (entry,) = rig.sink.records()
    assert 0 < entry["deadline_us"] <= 30_000_000
    assert entry["peer"].startswith("ipv4:127.0.0.1:")
    assert set(entry["timings_us"]) >= {"auth", "admit", "decode", "queue", "infer"}


def test_what_is_unavailable_is_never_said_of_what_will_not_change():
    """KServe's client retries UNAVAILABLE by itself, but where the pushback says never: decision 12."""
    never = {row.reason for row in errors.TABLE.values() if row.code is CODE.UNAVAILABLE and row.retry_after_ms is None}
    assert never == {"BACKEND_TIMED_OUT"}


class Gone:
    """The context of a call whose caller has gone: gRPC answers like this for a moment, which no test can hold."""

    def peer(self) -> str:
        return ""

    def time_remaining(self) -> float:
        return -0.001


async def test_a_caller_that_has_gone_leaves_an_entry_that_the_log_takes(rig):
    record = Record(bytes(16), METADATA, "ServerMetadata", "ab" * 32, 1, 0)
    record.principal = rig.gw.active.authenticate(Presented(api_key=rig.site.keys["plenty"]), "ServerMetadata", 1)
    record.auth_json = rig.gw.auth_json(record.principal)
    note_caller(record, Gone(), rig.gw)
    refuse(record, errors.DeadlinePassed())
    entries.check(record.leaf(rig.gw.site))
    assert (record.peer, record.deadline_us) == ("unknown", 0)
