"""`stockade.yaml`: what a gateway is made of. Static: a change takes a restart. The field texts are the manual.

Rules: unknown keys are refused; relative paths are relative to the file; secrets appear only as paths; every insecure
choice has a loud name (`unsafe_...`); values carry units and come out as integers with the unit in the name.
`parse_config` is pure; `load_config` adds the one thing that needs the disk: nobody but the owner may read a secret
(its group may, read-only: that is how secrets are mounted into containers). Whether files exist and hold what they
should is `gateway.check.check`'s business, because a recorder and a worker do not see the same files.
"""

import hashlib
import ipaddress
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PrivateAttr, ValidationInfo, WithJsonSchema

from gateway.config import rules as config_rules
from gateway.config.document import ConfigRejected, Document, Fault, Section, fill, parse, read_bounded
from gateway.config.profiles import laid_under
from gateway.config.units import Duration, Size, Text

__all__ = ["Address", "Config", "FilePath", "load_config", "parse_config", "valid_address", "valid_origin"]

CONFIG_BYTES_MAX = 256 * 1024
SECRET_MODE_FORBIDDEN = 0o037  # others: nothing; the group: reading at most
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_OTLP = re.compile(r"https?://(?P<address>[^/@]+)/?", re.ASCII)
_REDIS = re.compile(r"unix:/[^\0]{1,100}|rediss?://(?P<address>[^/@]+)(/[0-9]{1,3})?", re.ASCII)
_ORIGIN = re.compile(r"[a-z0-9][a-z0-9._-]*(/[A-Za-z0-9._~-]+)*", re.ASCII)


def _resolve(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise ValueError("is an empty path; name a file, or leave the key out")
    return os.path.normpath((info.context or {}).get("directory", Path()) / value)


def valid_address(value: object) -> str:
    """An address with its port, if it is one. Raises ValueError."""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if not isinstance(value, str) or match is None or int(match["port"]) > 65_535:
        raise ValueError(f'{value!r} is not an address; write "127.0.0.1:8001", "[::1]:8001" or "name:8001"')
    if match["v6"] is not None:
        try:
            ipaddress.IPv6Address(match["v6"])
        except ValueError:
            raise ValueError(f'{value!r} is not an address; "{match["v6"]}" is not IPv6') from None
    elif not config_rules.is_host(match["host"]):
        raise ValueError(f'{value!r} is not an address; "{match["host"]}" is neither IPv4 nor a name')
    return value


def _otlp(value: object) -> object:
    match = _OTLP.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('is not an OTLP endpoint; write "https://name:4317" or "http://127.0.0.1:4317"')
    valid_address(match["address"])
    return value


def _redis(value: object) -> object:
    match = _REDIS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        problem = "is not where a Redis is, or says more than that"
        raise ValueError(f'{problem}; write "rediss://name:6379", "redis://127.0.0.1:6379/0" or "unix:/run/redis.sock"')
    if match["address"] is not None:
        valid_address(match["address"])
    return value


def _endpoint(value: object) -> str:
    match = _OTLP.fullmatch(value) if isinstance(value, str) else None
    if not isinstance(value, str) or match is None:
        raise ValueError("is not the address of an object store; write https://objects.example.org:443")
    valid_address(match["address"])
    return value.removesuffix("/")


def valid_origin(value: object) -> str:
    """The name of a log, if it is one. Raises ValueError."""
    if not isinstance(value, str) or _ORIGIN.fullmatch(value) is None or len(value) > 255:
        raise ValueError(
            f'{value!r} is not an origin; write a name without spaces or "+", such as "example.org/gateway-1"'
        )
    return value


FilePath = Annotated[
    Path,
    BeforeValidator(_resolve),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "description": "A path; a relative one is relative to the file it stands in."}),
]
Address = Annotated[
    str,
    BeforeValidator(valid_address),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8001", "[::1]:8001"]}),
]
OtlpEndpoint = Annotated[
    str, BeforeValidator(_otlp), WithJsonSchema({"type": "string", "examples": ["http://127.0.0.1:4317"]})
]
RedisUrl = Annotated[
    str,
    BeforeValidator(_redis),
    WithJsonSchema({"type": "string", "examples": ["rediss://redis.example.org:6379", "unix:/run/redis/redis.sock"]}),
]
StoreUrl = Annotated[
    str,
    Text(
        r"(s3|gs|az)://[A-Za-z0-9._-]{1,255}(/[A-Za-z0-9._-]+){0,16}/?|file:///[^\0?#%]{1,1000}", "s3://bucket/prefix"
    ),
]
StoreEndpoint = Annotated[str, BeforeValidator(_endpoint), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
Origin = Annotated[str, BeforeValidator(valid_origin), WithJsonSchema({"type": "string", "maxLength": 255})]


class Listen(Section):
    """Where the gateway listens. Port 0 takes any free port."""

    data: Address
    """gRPC for clients: inference, health, reflection. TLS, unless `unsafe_plaintext`."""
    data_mtls: Address | None = None
    """A second port for clients that must show a certificate of `tls.client_ca` (SPIFFE identities)."""
    metrics: Address | None = "127.0.0.1:8002"
    """HTTP for /metrics, /healthz and /readyz. It has no credentials and no TLS, so keep it on loopback."""
    unsafe_metrics_plaintext: bool = False
    """Accepts a metrics address beyond loopback, for instance on a network that only Prometheus can reach."""
    admin: Address | None = None
    """gRPC for operators: policy, models, audit. Always asks for a client certificate."""


class Tls(Section):
    """TLS 1.2 or newer for every gRPC port."""

    certificate: FilePath
    """PEM; the server certificate first, then what clients need to reach a root they trust."""
    key: FilePath
    """PEM private key of that certificate; mode 0600."""
    client_ca: FilePath | None = None
    """PEM; issuers of the client certificates that `listen.data_mtls` and `listen.admin` accept."""


class OipTls(Section):
    """TLS to the servers that run the models."""

    ca: FilePath
    """PEM; who signs the servers' certificates. Nobody else is trusted, the system's authorities included."""
    certificate: FilePath | None = None
    """PEM; shown to servers that ask for a client certificate. Read at the start, as `key` is."""
    key: FilePath | None = None
    """PEM private key of that certificate; mode 0600."""
    server_name: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """The name in the servers' certificates, where it is not the one in `addresses`."""


class OipModel(Section):
    """What a model is called where it runs."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    """Its name there."""
    version: Annotated[str, Field(max_length=255)] = ""
    """Its version there, in quotes; empty: the one that server serves by default, which may change unseen."""


class Oip(Section):
    """Servers of the Open Inference Protocol (Triton, MLServer, KServe) that run the models.

    They are not trusted: every answer is held to the bundle's manifest. Nothing of a client reaches them but tensors.
    """

    addresses: Annotated[tuple[Address, ...], Field(min_length=1, max_length=16)]
    """Their gRPC ports; calls go round them, and first to those that say they are ready."""
    tls: OipTls | None = None
    unsafe_plaintext: bool = False
    """Accepts `addresses` beyond loopback without `tls`: inputs and answers can then be read and changed on the way."""
    token: FilePath | None = None
    """A file with a bearer token for the servers, read again while the gateway runs; mode 0600."""
    models: Annotated[Mapping[str, OipModel], Field(max_length=1024)] = {}
    """By name here, where a model has another name or version there than its bundle says."""
    call_timeout_ms: Annotated[int, Duration("10ms", "10m")] = Field("10s", alias="call_timeout", validate_default=True)
    """How long a batch may take, retries included; then its requests end with BACKEND_TIMED_OUT."""
    retries: Annotated[int, Field(ge=0, le=3)] = 1
    """How often a batch is offered again, to the next address, when a server is unavailable and gave no answer. Nothing
    else is tried twice."""
    rows_max: Annotated[int, Field(ge=1, le=4096)] = 64
    """Rows in one call; a larger batch becomes several. Fewer where a bundle says that its model takes fewer."""
    reply_bytes_max: Annotated[int, Size("1KiB", "256MiB")] = Field("16MiB", alias="reply_max", validate_default=True)
    """A reply; a larger one is not read, and its requests end with MODEL_ERROR."""


class RayReplicas(Section):
    """How many replicas a model has. Ray Serve adds and removes them by the calls that are in work or wait."""

    min: Annotated[int, Field(ge=1, le=1024)] = 1
    """There always, as far as the cluster has room. Two or more, on different nodes, to lose none when a node dies."""
    max: Annotated[int, Field(ge=1, le=1024)] = 1
    """There at most."""
    target_ongoing: Annotated[int, Field(ge=1, le=256)] = 2
    """Calls that a replica should have on average, each a batch; with more, replicas are added."""
    cpus: Annotated[float, Field(gt=0, le=64)] = 1.0
    """Processors that Ray sets aside for a replica. A run of a model uses one."""


class Ray(Section):
    """A Ray cluster whose Serve applications run the models. `stockade ray deploy` makes the applications.

    The gateway's machine must be a node of the cluster (`ray start --address=...`, with no processors if it should run
    no replica). Replicas verify a bundle before they load it, so nodes need bundles and keys under the same paths.
    """

    address: Address
    """The cluster's head (GCS), as in `ray start --address`."""
    unsafe_plaintext: bool = False
    """Accepts an `address` beyond loopback: inputs and answers can be read and changed on that network, and whoever
    reaches a Ray cluster can run code in it."""
    namespace: Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,62}$")] = "stockade"
    """The applications are called <namespace>-<model>-<version>. Gateways with the same one share them. No hyphens, so
    that no namespace is the beginning of another's names."""
    call_timeout_ms: Annotated[int, Duration("10ms", "10m")] = Field("5s", alias="call_timeout", validate_default=True)
    """How long a batch may take, the second attempt included; then its requests end with BACKEND_TIMED_OUT. A replica
    with a run that takes longer is replaced."""
    start_timeout_ms: Annotated[int, Duration("0s", "50s")] = Field("20s", alias="start_timeout", validate_default=True)
    """How long a worker waits at its start for replicas. Without them it starts all the same, and is not ready."""
    replicas: RayReplicas = RayReplicas()
    max_ongoing: Annotated[int, Field(ge=1, le=256)] = 8
    """Calls that a replica takes at once, each in a thread; further ones wait in the gateway."""
    prefer_local: bool = True
    """Prefers replicas on the gateway's own node while they have room."""
    models_per_replica: Annotated[int, Field(ge=0, le=1024)] = 0
    """0: every model has replicas of its own. Otherwise all models share replicas, which load a model when it is asked
    for and hold that many at most."""


class Engine(Section):
    """What runs the models. Queues are bounded; what does not fit is refused with QUEUE_FULL."""

    kind: Literal["inprocess", "oip", "ray"] = "inprocess"
    """`inprocess`: ONNX Runtime in the worker. `oip`: servers of the Open Inference Protocol, see `oip`. `ray`:
    replicas on a Ray cluster, see `ray`."""
    fallback: Literal["none", "inprocess"] = "none"
    """What answers while no replica of a Ray cluster takes a batch. `inprocess`: ONNX Runtime in the worker, with the
    same bundle; without it the requests end with BACKEND_UNAVAILABLE."""
    threads: Annotated[int, Field(ge=0, le=64)] = 0
    """Each runs one batch at a time. 0: batches run on the event loop, with a thread for the inference of larger ones,
    which is fastest while a full one takes a few milliseconds; for models that run elsewhere, 8 threads."""
    batch_rows_max: Annotated[int, Field(ge=1, le=4096)] = 64
    """Rows in a batch. A batch takes what is waiting; nothing waits for it to fill."""
    queue_rows_max: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Rows that may wait for a model."""
    queue_bytes_max: Annotated[int, Size("64KiB", "16GiB")] = Field("64MiB", validate_default=True)
    """Bytes of input that may wait for a model."""
    oip: Oip | None = None
    """Which servers run the models, for `kind: oip`."""
    ray: Ray | None = None
    """Which cluster runs the models, for `kind: ray`."""


class Bundles(Section):
    """The signed models."""

    directory: FilePath
    """Holds <name>/<version>/manifest.json and its files."""
    trusted_keys: Annotated[tuple[FilePath, ...], Field(min_length=1, max_length=16)]
    """PEM public keys; a bundle must be signed by one of them before a byte of it is loaded."""
    approvals: FilePath | None = None
    """Holds <name>/<version>/ with the evidence of a version: its evaluation, and what approvers signed. Absent:
    `approvals` beside `directory`. Only models with a `promotion` in the policy need any."""

    @property
    def evidence(self) -> Path:
        """Where evidence lies."""
        return self.directory.parent / "approvals" if self.approvals is None else self.approvals


class Witnesses(Section):
    """Who else signs the log's checkpoints, so that nobody can show two people two histories."""

    policy: FilePath
    """Trusted witnesses with their URLs, and the quorum (C2SP tlog-policy); a `log` line names this log's own key."""
    every_ms: Annotated[int, Duration("1s", "1h")] = Field("10s", alias="every", validate_default=True)
    """How often the newest checkpoint is cosigned. What came after it is the log's word alone."""


class Replication(Section):
    """An object store to which the published log is copied as it grows. Needs the extra `objects`."""

    url: StoreUrl
    """Where: `s3://bucket/prefix`, `gs://`, `az://`, or `file:///directory`. This log's alone."""
    endpoint: StoreEndpoint | None = None
    """The address of an S3 of your own, such as `https://objects.example.org:8333`. Absent: the provider's."""
    unsafe_plaintext: bool = False
    """Accepts an `http` endpoint beyond loopback: the log can then be read on the network."""
    region: Annotated[str, Text(r"[a-z0-9-]{1,64}", "a region such as eu-central-1")] | None = None
    """The region of an S3 bucket; `us-east-1` where none is said."""
    credentials: FilePath | None = None
    """JSON object of what the store asks for, such as `access_key_id` and `secret_access_key`; mode 0600. Whoever has
    them need not be able to remove anything. Absent: those that the machine has (environment, instance role)."""
    every_ms: Annotated[int, Duration("100ms", "1h")] = Field("10s", alias="every", validate_default=True)
    """How often the newest checkpoint is copied. Each time adds narrow tiles, which stay as long as the store keeps
    them; how long answers with `acknowledge: replica` wait."""
    timeout_ms: Annotated[int, Duration("100ms", "10m")] = Field("10s", alias="timeout", validate_default=True)
    """How long one request to the store may take, attempts included."""
    lag_max_ms: Annotated[int, Duration("1s", "30d")] | None = Field(None, alias="lag_max")
    """When the oldest record that only this machine has is older, calls are refused with REPLICA_BEHIND until it is
    not. At least three times `every`. Absent: the lag is measured, and nothing else."""
    retention_min_ms: Annotated[int, Duration("1d", "36500d")] | None = Field(None, alias="retention_min")
    """How long the store must lock what it is given (S3 Object Lock, mode COMPLIANCE, by the bucket's default): read
    back from each checkpoint; a store that does not stops replication. Absent: nobody looks."""


class Epochs(Section):
    """When one log ends and the next begins, each whole by itself, so that what is old can be dropped."""

    records_max: Annotated[int, Field(ge=1_000, le=1 << 32)] = 1 << 26
    """An epoch is closed when it has so many records."""
    months: Annotated[int, Field(ge=0, le=12)] = 1
    """It is closed when it began so many months of the calendar (UTC) ago; 0: only `records_max` closes it."""
    kept_months: Annotated[int, Field(ge=1, le=1_200)] = 13
    """How long `stockade audit retain` keeps the entries of a closed epoch, where there is no replica."""
    hot_months: Annotated[int, Field(ge=0, le=1_200)] = 3
    """How long it keeps them here where a replica has them all."""


class Audit(Section):
    """The tamper-evident log. No answer leaves before its record is durable here."""

    directory: FilePath
    """The public log: checkpoint, tiles, payload blobs. What auditors get."""
    state_directory: FilePath
    """The recorder's segments, staging and lock, and which policy was last in force. As precious as the log, and on the
    same filesystem."""
    origin: Origin
    """The log's name in every checkpoint; unique, and never used for another log."""
    signing_key: FilePath
    """Signs checkpoints: `PRIVATE+KEY+...` (C2SP signed-note, Ed25519). Only the recorder reads it. Mode 0600."""
    vkey: FilePath
    """Its public half as a C2SP vkey: give it to everybody who verifies."""
    master_key: FilePath
    """32 random bytes that wrap the payload keys; losing it loses every captured payload. Mode 0600."""
    key_database: FilePath
    """SQLite file of the wrapped payload keys; back it up for at most seven days, so that erasure becomes final."""
    recorder: Literal["managed", "external"] = "managed"
    """Who runs the log's only writer. `managed`: `stockade serve`, as its child. `external`: `stockade recorder`, as a
    user of its own, so that the gateway cannot read `signing_key`; both users need a common group."""
    append_timeout_ms: Annotated[int, Duration("10ms", "60s")] = Field(
        "2s", alias="append_timeout", validate_default=True
    )
    """A record that is not durable after this long turns its answer into AUDIT_UNAVAILABLE."""
    backlog_bytes_max: Annotated[int, Size("64KiB", "1GiB")] = Field(
        "32MiB", alias="backlog_max", validate_default=True
    )
    """Records waiting for the recorder in one worker; beyond it answers are refused with AUDIT_UNAVAILABLE. Requests
    whose payload may be kept take half of it; beyond that they are refused with OVERLOADED, before any model work.
    """
    publish_every_ms: Annotated[int, Duration("100ms", "60s")] = Field(
        "1s", alias="publish_every", validate_default=True
    )
    """How often what is durable becomes public: tiles and a signed checkpoint. Entries are durable before, as ever."""
    witnesses: Witnesses | None = None
    """Witnesses that cosign checkpoints; answers wait for them where a model's `acknowledge` in the policy says so."""
    replication: Replication | None = None
    """An object store that holds a copy of the log; answers wait for it where the policy says so."""
    epochs: Epochs | None = None
    """Closes the log now and then and goes on with the next one. Absent: one log for ever."""
    acknowledge_timeout_ms: Annotated[int, Duration("100ms", "10m")] = Field(
        "30s", alias="acknowledge_timeout", validate_default=True
    )
    """How long an answer waits, at most, for its record to be where `acknowledge` wants it; then NOT_ACKNOWLEDGED."""


class PolicySource(Section):
    """Where the policy is, and whose signature it carries."""

    file: FilePath
    """policy.yaml; its detached signature stands beside it with `.sig` appended."""
    public_key: FilePath
    """PEM Ed25519 public key of those who may change the policy."""
    pepper: FilePath
    """32 random bytes under which API keys are hashed; mode 0600."""


class Transport(Section):
    """Limits of the wire."""

    message_bytes_max: Annotated[int, Size("1KiB", "256MiB")] = Field(
        "4MiB", alias="message_max", validate_default=True
    )
    """A request message; larger ones are REQUEST_TOO_LARGE, those by more than 64 KiB gRPC's own RESOURCE_EXHAUSTED."""
    metadata_bytes_max: Annotated[int, Size("1KiB", "64KiB")] = Field(
        "8KiB", alias="metadata_max", validate_default=True
    )
    """The metadata of a call."""
    rows_max: Annotated[int, Field(ge=1, le=4096)] = 256
    """Rows in one request."""
    in_flight_max: Annotated[int, Field(ge=1, le=100_000)] = 2048
    """Calls being worked on in one worker; beyond it the lowest priority is refused with OVERLOADED."""
    servers_per_port: Annotated[int, Field(ge=1, le=32)] = 8
    """gRPC servers of a worker that share a port, so that so many calls can be taken in side by side."""
    connection_age_max_ms: Annotated[int, Duration("1s", "1d")] = Field(
        "5m", alias="connection_age_max", validate_default=True
    )
    """A connection is asked to reconnect after this long, so that load spreads over new workers."""
    drain_timeout_ms: Annotated[int, Duration("100ms", "1h")] = Field(
        "30s", alias="drain_timeout", validate_default=True
    )
    """After SIGTERM, how long accepted calls may take to finish."""


class Log(Section):
    """The structured log on standard error. It never holds a secret or a payload."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is written."""
    format: Literal["auto", "json", "text"] = "auto"
    """`auto`: text for a terminal, JSON lines otherwise."""


class Tracing(Section):
    """OpenTelemetry traces of calls, sent to a collector in the background. Needs the extra `otel`. Absent: none.

    They name method, model, outcome, stages and audit index; never a caller, a secret or a payload.
    """

    otlp_endpoint: OtlpEndpoint
    """Where the collector takes OTLP over gRPC. `https` trusts gRPC's roots, or OTEL_EXPORTER_OTLP_CERTIFICATE."""
    unsafe_otlp_plaintext: bool = False
    """Accepts `http` to another machine: the traces can then be read on the network."""
    sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The share of calls that is traced, where the caller's `traceparent` does not say."""


class SharedLimits(Section):
    """A Redis (or Valkey) in which all gateways and workers keep their limits together. Needs the extra `redis`.

    Absent: limits count in each worker. What to do while it is away is the policy's business (`shared_limits` there).
    """

    url: RedisUrl
    """`rediss://` with TLS, `redis://` without, `unix:` a socket; then a database other than 0. No password here."""
    ca: FilePath | None = None
    """PEM; who issued the server's certificate. Absent: the authorities that the system trusts."""
    certificate: FilePath | None = None
    """PEM; a client certificate, if the server asks for one."""
    key: FilePath | None = None
    """PEM private key of that certificate; mode 0600."""
    username: Annotated[str, Text(r"[!-~]{1,128}", "1 to 128 printable characters without spaces")] | None = None
    """The ACL user; absent: the server's default user."""
    password_file: FilePath | None = None
    """The password, and nothing else but a line break at the end; mode 0600."""
    unsafe_redis_plaintext: bool = False
    """Accepts `redis://` to another machine: limits and the password can then be read, and changed, on the network."""
    namespace: Annotated[
        str, Text(r"[A-Za-z0-9._-]{1,64}", "1 to 64 letters, digits, dots, hyphens and underscores")
    ] = "stockade"
    """Begins the name of every key. Gateways that share limits have the same one, and the same pepper."""
    timeout_ms: Annotated[int, Duration("1ms", "10s")] = Field("250ms", alias="timeout", validate_default=True)
    """How long a call waits for Redis at most, before it is away."""


class ResponseCache(Section):
    """Answers that are given again: same tenant, model, version, policy and input. Absent: every request is run.

    Each worker has its own. A caller is authenticated and charged as for any answer, and each has a record.
    """

    entries_max: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Answers that are kept."""
    bytes_max: Annotated[int, Size("64KiB", "4GiB")] = Field("16MiB", validate_default=True)
    """Memory they take; one that takes more than an eighth of it is not kept."""
    ttl_ms: Annotated[int, Duration("1s", "1d")] = Field("10m", alias="ttl", validate_default=True)
    """How long an answer may be given again."""


class Config(Section):
    """Stockade's static configuration (`stockade.yaml`)."""

    version: Literal[1]
    """The format of this file."""
    profile: Literal["standard", "edge"] = "standard"
    """Other defaults for other machines: `edge` is for one core and 300 MiB ([what it sets](edge.md#the-profile)).
    `--profile` counts before it, and every key that stands here before both."""
    state_dir: FilePath
    """Socket, in-flight rings, metrics, accepted policy; may be deleted after a clean stop. One gateway at a time."""
    listen: Listen
    tls: Tls | None = None
    unsafe_plaintext: bool = False
    """Serves without TLS, instead of `tls`: credentials and inputs can then be read on the network."""
    unsafe_unprotected: bool = False
    """Turns every protection off (credentials, limits, screens, hardening, audit log), to measure what they cost."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the data port."""
    reflection: bool = True
    """Lets clients such as grpcurl list the services and their messages."""
    engine: Engine = Engine()
    bundles: Bundles
    audit: Audit
    policy: PolicySource
    transport: Transport = Transport()
    log: Log = Log()
    tracing: Tracing | None = None
    shared_limits: SharedLimits | None = None
    cache: ResponseCache | None = None

    _directory: Path = PrivateAttr(default=Path())

    def model_post_init(self, context: Any, /) -> None:
        self._directory = (context or {}).get("directory", Path())

    @cached_property
    def digest(self) -> str:
        """SHA-256, hex, of `masked()` in canonical JSON. The same directory elsewhere has the same digest."""
        text = json.dumps(self.masked(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def masked(self) -> dict[str, Any]:
        """The effective configuration, defaults filled in, as it may be shown: paths, never what is in them."""
        shown: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        root = f"{self._directory}{os.sep}"
        return {key: _relative(value, root) for key, value in shown.items()}

    def secret_files(self) -> Iterator[tuple[tuple[str, ...], Path]]:
        """(key in the file, path) of everything that must stay secret."""
        if self.tls is not None:
            yield ("tls", "key"), self.tls.key
        yield ("audit", "signing_key"), self.audit.signing_key
        yield ("audit", "master_key"), self.audit.master_key
        yield ("policy", "pepper"), self.policy.pepper
        if (replication := self.audit.replication) is not None and replication.credentials is not None:
            yield ("audit", "replication", "credentials"), replication.credentials
        if (shared := self.shared_limits) is not None:
            if shared.key is not None:
                yield ("shared_limits", "key"), shared.key
            if shared.password_file is not None:
                yield ("shared_limits", "password_file"), shared.password_file
        if (oip := self.engine.oip) is not None:
            if oip.tls is not None and oip.tls.key is not None:
                yield ("engine", "oip", "tls", "key"), oip.tls.key
            if oip.token is not None:
                yield ("engine", "oip", "token"), oip.token


def _relative(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return {key: _relative(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_relative(item, root) for item in value]
    return value.removeprefix(root) if isinstance(value, str) else value


def parse_config(data: bytes, file: Path, profile: str | None = None) -> Config:
    """The bytes of stockade.yaml to a checked Config. Raises ConfigRejected with every problem found."""
    return _filled(parse(data, file, ConfigRejected), profile)


def load_config(path: Path, profile: str | None = None) -> Config:
    """Reads, checks and returns stockade.yaml. Raises ConfigRejected, also when others can read a secret it names.

    `profile` counts before the one that the file names.
    """
    data = read_bounded(path, CONFIG_BYTES_MAX, ConfigRejected)
    document = parse(data, path, ConfigRejected)
    config = _filled(document, profile)
    if faults := list(_exposed_secrets(config)):
        raise ConfigRejected(document.messages(faults))
    return config


def _filled(document: Document, profile: str | None) -> Config:
    if isinstance(document.value, dict) and "principals" in document.value:
        near = document.file.with_name("stockade.yaml")
        advice = f"name the configuration that it belongs to instead, such as {near}"
        raise ConfigRejected([document.message(Fault((), f"is a policy; {advice}"))])
    document = replace(document, value=laid_under(document.value, profile))
    return fill(Config, document, config_rules.RULES, ConfigRejected)


def _exposed_secrets(config: Config) -> Iterator[Fault]:
    for at, path in config.secret_files():
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue  # a recorder's key is out of a worker's sight; `stockade check` reports what is missing
        if mode & SECRET_MODE_FORBIDDEN:
            yield Fault(at, f"{path.name} has mode {mode:04o}, so others can use the secret; run `chmod 600 {path}`")
