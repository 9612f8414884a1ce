"""The log, its witnesses, its replica and its epochs: the `audit` section of `stockade.yaml`."""

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.document import Section
from gateway.config.units import Duration, Size, Text
from gateway.config.values import FilePath, Origin, StoreEndpoint, StoreUrl


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
    """The log's name in every checkpoint; unique, never used for another log. `.../epoch-2` is an epoch's: refused."""
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
