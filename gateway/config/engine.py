"""What runs the models: the `engine` section of `stockade.yaml`."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from gateway.config.document import Section
from gateway.config.units import Duration, Size
from gateway.config.values import Address, FilePath


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
