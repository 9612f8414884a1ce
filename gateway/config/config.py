"""`stockade.yaml`: what a gateway is made of. Static: a change takes a restart. The field texts are the manual.

Rules: unknown keys are refused; relative paths are relative to the file; secrets appear only as paths; every insecure
choice has a loud name (`unsafe_...`); values carry units and come out as integers with the unit in the name.
`parse_config` is pure; `load_config` adds the one thing that needs the disk: nobody but the owner may read a secret
(its group may, read-only: that is how secrets are mounted into containers). Whether files exist and hold what they
should is `gateway.tools.check.check`'s business, because a recorder and a worker do not see the same files.
"""

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from gateway.config.audit import Audit
from gateway.config.document import Section, canonical_json
from gateway.config.engine import Engine
from gateway.config.units import Duration, Size, Text
from gateway.config.values import Address, FilePath, OtlpEndpoint, RedisUrl


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
    """gRPC for operators: policy, models, audit. Asks for a client certificate, and takes no other credential."""


class Tls(Section):
    """TLS 1.2 or newer for every gRPC port."""

    certificate: FilePath
    """PEM; the server certificate first, then what clients need to reach a root they trust."""
    key: FilePath
    """PEM private key of that certificate; mode 0600."""
    client_ca: FilePath | None = None
    """PEM; issuers of the client certificates that `listen.data_mtls` and `listen.admin` accept."""


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
    """Other defaults for other machines: `edge` is for one core and 300 MiB ([what it
    sets](../how-to/edge.md#the-profile)). `--profile` counts before it, and every key that stands here before both."""
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
        return hashlib.sha256(canonical_json(self.masked())).hexdigest()

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
