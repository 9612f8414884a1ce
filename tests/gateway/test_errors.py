"""The table of refusals: complete, as the wire contract says, and silent about everything else."""

import ast
import importlib
import inspect
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

import serving.errors
from gateway import errors

ROOT = Path(__file__).parent.parent.parent
REQUEST_ID = "0123456789abcdef" * 2

# Classes that no request can meet, each with the reason why it has no row.
OFFLINE = {
    "serving.errors.ServingError": "root",
    "serving.errors.EngineError": "root",
    "serving.errors.BundleRejected": "bundles are verified before the gateway listens",
    "serving.errors.BundleDuplicate": "bundles are loaded before the gateway listens",
    "serving.errors.ReplicaRefused": "a replica's start",
    "serving.engines.ray.frames.BadFrame": "of a reply it becomes BackendFailed, of a bridge its end",
    "serving.registry.errors.RegistryError": "root, of what the supervisor and the verbs ask",
    "serving.registry.errors.DatasetRejected": "raised by `models evaluate`",
    "serving.registry.errors.NotMeasurable": "raised by `models evaluate`",
    "serving.registry.errors.EvidenceRejected": "the supervisor turns it into a policy or a load that is refused",
    "serving.registry.errors.KeyRejected": "raised by the verbs of approvers",
    "defenses.errors.DefenseError": "root",
    "defenses.errors.BudgetStateInvalid": "a snapshot that cannot be read is not restored",
    "defenses.errors.ProofInvalid": "the gateway asks for another proof",
    "defenses.errors.CalibrationInvalid": "calibrations are loaded before the gateway listens",
    "defenses.errors.CalibrationTooSmall": "raised by the calibration command",
    "defenses.errors.SnapshotInvalid": "a watch that cannot restore its memory begins anew",
    "defenses.errors.RuleInvalid": "rules are built when a policy is compiled",
    "ops.metrics.store.MetricsInUse": "a worker's start",
    "ops.audit.errors.AuditError": "root",
    "ops.audit.errors.EntryError": "entries are parsed by the recorder and by readers",
    "ops.audit.errors.NoteError": "readers",
    "ops.audit.errors.CheckpointError": "readers",
    "ops.audit.errors.VerifierKeyError": "readers",
    "ops.audit.errors.SignatureInvalid": "readers",
    "ops.audit.errors.SignatureMissing": "readers",
    "ops.audit.errors.QuorumMissing": "verifiers of receipts",
    "ops.audit.errors.TrustPolicyError": "verifiers of receipts, and witnesses",
    "ops.audit.errors.StoreError": "root, of what replication and `audit verify URL` meet",
    "ops.audit.errors.StoreUnavailable": "an object store that cannot be asked now",
    "ops.audit.errors.StoreRefused": "an object store that says no",
    "ops.audit.errors.ReplicationError": "root, of what stops replication in the supervisor",
    "ops.audit.errors.ReplicaDiffers": "the store holds something else than the log",
    "ops.audit.errors.ReplicaAhead": "the log does not extend what the store holds",
    "ops.audit.errors.ReplicaUnlocked": "the store does not keep objects as long as it must",
    "ops.audit.errors.LogRejected": "the log is not what its checkpoint says",
    "ops.audit.errors.WitnessError": "root, of what `audit cosign` asks for",
    "ops.audit.errors.WitnessSilent": "`audit cosign` tells",
    "ops.audit.errors.WitnessRefused": "`audit cosign` tells",
    "ops.audit.errors.WitnessAhead": "`audit cosign` tells",
    "ops.audit.errors.ProofError": "readers",
    "ops.audit.errors.TileError": "readers",
    "ops.audit.errors.ReadError": "readers",
    "ops.audit.errors.IndexRejected": "`audit query`",
    "ops.audit.errors.QueryUnavailable": "`audit query`",
    "ops.audit.errors.QueryRefused": "`audit query`",
    "ops.audit.errors.SealBroken": "readers",
    "ops.audit.errors.ErasureRefused": "the admin port answers with its text",
    "ops.audit.errors.ProtocolError": "the client turns it into AuditUnavailable",
    "ops.audit.errors.MirrorError": "root, of `audit mirror`",
    "ops.audit.errors.MirrorRefused": "`audit mirror`",
    "ops.audit.errors.MirrorBusy": "`audit mirror`",
    "ops.audit.errors.CopyRejected": "`audit mirror`",
    "ops.audit.errors.RestoreError": "root, of `audit restore`",
    "ops.audit.errors.NothingToRestore": "`audit restore`",
    "ops.audit.errors.RestoreRefused": "`audit restore`",
    "ops.audit.errors.HistoriesDiffer": "`audit restore`",
    "ops.audit.errors.RestoreIncomplete": "`audit restore`",
    "ops.audit.errors.SuccessionRefused": "`audit restore` and `restore`",
    "ops.backup.errors.BackupError": "root, of `backup` and `restore`",
    "ops.backup.errors.RepositoryRefused": "`backup`",
    "ops.backup.errors.RepositoryBusy": "`backup create`",
    "ops.backup.errors.BackupKeyRefused": "`backup`",
    "ops.backup.errors.SourceRefused": "`backup create`",
    "ops.backup.errors.LogMoved": "`backup create` begins again",
    "ops.backup.errors.BackupDamaged": "`backup verify` and `restore`",
    "ops.backup.errors.RestoreRefused": "`restore`",
    "ops.audit.errors.SettingsError": "the recorder's start",
    "ops.audit.errors.RingError": "a worker's start",
    "ops.audit.errors.RecorderError": "root, in the recorder's own process",
    "ops.audit.errors.AppenderRunning": "the recorder's own process",
    "ops.audit.errors.LogCorrupted": "the recorder's own process",
    "ops.audit.errors.LogFull": "the recorder's own process",
    "ops.audit.errors.ForkRefused": "the recorder's own process",
    "ops.audit.errors.EpochClosed": "the recorder's own process",
    "ops.audit.errors.Poisoned": "the recorder's own process",
}

# reason -> code and pushback, as the contract's table has them; None: the exception's own milliseconds.
CONTRACT = {
    "CREDENTIAL_MISSING": (grpc.StatusCode.UNAUTHENTICATED, -1),
    "CREDENTIAL_INVALID": (grpc.StatusCode.UNAUTHENTICATED, -1),
    "CREDENTIAL_EXPIRED": (grpc.StatusCode.UNAUTHENTICATED, -1),
    "ISOLATED": (grpc.StatusCode.PERMISSION_DENIED, -1),
    "METHOD_FORBIDDEN": (grpc.StatusCode.PERMISSION_DENIED, -1),
    "MODEL_UNKNOWN": (grpc.StatusCode.NOT_FOUND, -1),
    "MODEL_UNLOADED": (grpc.StatusCode.NOT_FOUND, -1),
    "MODEL_NOT_LOADED": (grpc.StatusCode.FAILED_PRECONDITION, -1),
    "ARGUMENT_INVALID": (grpc.StatusCode.INVALID_ARGUMENT, -1),
    "PROOF_OF_WORK_WANTED": (grpc.StatusCode.RESOURCE_EXHAUSTED, -1),
    "TENSOR_INVALID": (grpc.StatusCode.INVALID_ARGUMENT, -1),
    "MESSAGE_MALFORMED": (grpc.StatusCode.INVALID_ARGUMENT, -1),
    "METHOD_UNIMPLEMENTED": (grpc.StatusCode.UNIMPLEMENTED, -1),
    "REQUEST_TOO_LARGE": (grpc.StatusCode.RESOURCE_EXHAUSTED, -1),
    "RATE_LIMITED": (grpc.StatusCode.RESOURCE_EXHAUSTED, None),
    "QUOTA_EXCEEDED": (grpc.StatusCode.RESOURCE_EXHAUSTED, None),
    "QUEUE_FULL": (grpc.StatusCode.RESOURCE_EXHAUSTED, None),
    "OVERLOADED": (grpc.StatusCode.UNAVAILABLE, None),
    "DRAINING": (grpc.StatusCode.UNAVAILABLE, None),
    "MODEL_LOADING": (grpc.StatusCode.UNAVAILABLE, None),
    "LIMITS_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, None),
    "DEADLINE_PASSED": (grpc.StatusCode.DEADLINE_EXCEEDED, -1),
    "DEADLINE_UNMEETABLE": (grpc.StatusCode.DEADLINE_EXCEEDED, -1),
    "NOT_ACKNOWLEDGED": (grpc.StatusCode.DEADLINE_EXCEEDED, -1),
    "INPUT_REJECTED": (grpc.StatusCode.PERMISSION_DENIED, -1),
    "SCREEN_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, None),
    "AUDIT_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, None),
    "REPLICA_BEHIND": (grpc.StatusCode.UNAVAILABLE, None),
    "BACKEND_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, None),
    "BACKEND_TIMED_OUT": (grpc.StatusCode.UNAVAILABLE, -1),
    "MODEL_ERROR": (grpc.StatusCode.INTERNAL, -1),
    "CANCELLED": (grpc.StatusCode.CANCELLED, -1),
}

EXAMPLES = {  # classes whose constructor needs something
    errors.ArgumentInvalid: lambda: errors.ArgumentInvalid("index", "is not an entry"),
    errors.TensorInvalid: lambda: errors.TensorInvalid("inputs[0].shape", "has not as many dimensions as declared"),
    serving.errors.QueueFull: lambda: serving.errors.QueueFull(1000),
}


def example(kind):
    """An exception of the class, whose every text is one that must not come out."""
    if kind in EXAMPLES:
        return EXAMPLES[kind]()
    if kind.__init__ is Exception.__init__:
        return kind("secret")
    required = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
    return kind(*["secret"] * len(required))


def details_of(rendered):
    """The google.rpc details of a refusal, by the names of their types."""
    status = status_pb2.Status.FromString(dict(rendered.trailers)["grpc-status-details-bin"])
    assert (status.code, status.message) == (rendered.code.value[0], rendered.details)
    found = {}
    for packed in status.details:
        name = packed.TypeName().removeprefix("google.rpc.")
        message = getattr(error_details_pb2, name)()
        packed.Unpack(message)
        found[name] = message
    return found


def holds_an_exception(path):
    """Whether the text of a module defines one, so that only those modules are imported."""
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    bases = [ast.unparse(base) for node in classes for base in node.bases]
    return any(base.endswith(("Error", "Exception")) for base in bases)


def exception_classes_below():
    """Name and class of every public exception of the packages below the gateway, wherever it is defined.

    Training and the lab are left out: they are commands with trees of their own, and no gateway imports them.
    """
    for path in sorted(path for package in ("serving", "defenses", "ops") for path in (ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name.startswith(("serving.train", "defenses.lab")) or not holds_an_exception(path):
            continue
        for kind in vars(importlib.import_module(name)).values():
            if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == name:
                yield f"{name}.{kind.__name__}", kind


def test_every_exception_of_the_packages_below_has_a_row_or_a_reason_not_to():
    seen = {name: kind for name, kind in exception_classes_below() if not kind.__name__.startswith("_")}
    assert len(seen) > 30
    unmapped = {name for name, kind in seen.items() if kind not in errors.TABLE and name not in OFFLINE}
    assert not unmapped
    assert not OFFLINE.keys() - seen.keys()
    both = {name for name, kind in seen.items() if kind in errors.TABLE and name in OFFLINE}
    assert not both


def test_every_refusal_of_the_gateway_has_a_row():
    classes = {kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.Refusal)}
    refusals = classes - {errors.Refusal, errors.RetryLater}
    assert refusals == {kind for kind in errors.TABLE if kind.__module__ == "gateway.errors"}
    assert len(refusals) == 32


@pytest.mark.parametrize("kind", errors.TABLE, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_each_row_is_the_contracts(kind):
    rendered = errors.render(example(kind), REQUEST_ID)
    code, pushback = CONTRACT[rendered.reason]
    assert rendered.code is code
    trailers = dict(rendered.trailers)
    assert trailers["grpc-retry-pushback-ms"] == str(1000 if pushback is None else pushback)
    assert rendered.details.startswith(f"[{rendered.reason}] ")
    assert rendered.details.endswith(f" (request_id={REQUEST_ID})")
    assert "secret" not in rendered.details
    found = details_of(rendered)
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == (rendered.reason, "stockade")
    assert ("RetryInfo" in found) == (pushback is None)
    assert ("QuotaFailure" in found) == (rendered.reason in {"RATE_LIMITED", "QUOTA_EXCEEDED"})
    assert ("BadRequest" in found) == (rendered.reason in {"ARGUMENT_INVALID", "TENSOR_INVALID"})


def test_the_contract_has_no_reason_that_no_row_has():
    assert {row.reason for row in errors.TABLE.values()} == set(CONTRACT)


def test_unavailable_means_try_again_but_where_somebody_may_be_at_work_still():
    """KServe's client retries UNAVAILABLE by itself, so a refusal that will not change must never use it."""
    unavailable = [row for row in errors.TABLE.values() if row.code is grpc.StatusCode.UNAVAILABLE]
    assert {row.reason for row in unavailable if row.retry_after_ms is None} == {"BACKEND_TIMED_OUT"}


def test_a_bad_field_is_named_in_the_text_and_in_the_details():
    rendered = errors.render(errors.TensorInvalid("inputs[0].shape", "is wrong"), REQUEST_ID)
    assert "inputs[0].shape is wrong" in rendered.details
    (violation,) = details_of(rendered)["BadRequest"].field_violations
    assert (violation.field, violation.description) == ("inputs[0].shape", "is wrong")


def test_a_limit_says_what_and_how_much():
    assert "rows (at most 256)" in errors.render(errors.RequestTooLarge("rows", 256), REQUEST_ID).details
    assert ": message (request_id" in errors.render(errors.RequestTooLarge(), REQUEST_ID).details


@pytest.mark.parametrize(("asked", "told"), [(250, "250"), (0, "0"), (-5, "0")])
def test_the_pushback_is_the_exceptions_own_and_never_forbids_by_accident(asked, told):
    rendered = errors.render(errors.RateLimited("small", asked), REQUEST_ID)
    assert dict(rendered.trailers)["grpc-retry-pushback-ms"] == told
    found = details_of(rendered)
    assert found["RetryInfo"].retry_delay.ToMilliseconds() == int(told)
    assert found["QuotaFailure"].violations[0].subject == "small"


@pytest.mark.parametrize("exc", [ValueError("secret"), KeyError("secret"), MemoryError(), KeyboardInterrupt("secret")])
def test_whatever_is_not_in_the_table_is_a_fault_of_ours_and_says_nothing(exc):
    rendered = errors.render(exc, REQUEST_ID)
    assert (rendered.code, rendered.reason) == (grpc.StatusCode.INTERNAL, "MODEL_ERROR")
    assert "secret" not in repr(rendered)


def test_a_subclass_is_rendered_as_the_nearest_class_above_it():
    class Slower(errors.QuotaExceeded):
        pass

    assert errors.render(Slower("daily", 7), REQUEST_ID).reason == "QUOTA_EXCEEDED"


@given(st.text(max_size=5000), st.text(max_size=5000))
def test_the_trailers_stay_below_four_kilobytes(field, rule):
    for exc in (errors.TensorInvalid(field, "p" * 80), errors.RateLimited(rule), errors.RequestTooLarge(field, 2**63)):
        rendered = errors.render(exc, REQUEST_ID)
        size = sum(len(key) + len(value) + 32 for key, value in rendered.trailers)  # 32 as HTTP/2 counts a header
        assert size + len(rendered.details) < 3000
        assert rendered.details.isascii()
        assert rendered.details.isprintable()


def test_names_are_clipped_at_their_limit():
    most = errors.QUOTED_CHARACTERS_MAX
    assert errors.clipped("a" * most) == "a" * most
    assert errors.clipped("a" * (most + 1)) == "a" * (most - 3) + "..."
    assert errors.clipped("a\nb\u00e4") == "a?b?"


async def test_a_client_receives_code_details_and_trailers():
    """Over a real socket: gRPC lets all of it through, binary details and pushback included."""
    rendered = errors.render(errors.RateLimited("small", 250), REQUEST_ID)

    async def refuse(_, context):
        await context.abort(rendered.code, rendered.details, rendered.trailers)

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("t.T", {"M": grpc.unary_unary_rpc_method_handler(refuse)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/t.T/M")(b"")
    finally:
        await server.stop(None)
    assert (caught.value.code(), caught.value.details()) == (rendered.code, rendered.details)
    assert set(rendered.trailers) <= set(caught.value.trailing_metadata())
