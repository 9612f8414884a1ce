"""What the server says about itself and its models: replies of every method but inference, and the shapes of a stream.

Pure functions from facts to messages; who may see what is decided before they are called.

Compatibility (found by running the clients):
- ModelMetadataResponse field 6 stays empty, because the protocol text and MLServer give it different types.
- Settings for traces and logs can be read and never set: they belong to the operator, not to a client.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from gateway.codec.datatypes import DATATYPES
from gateway.codec.request import Spec
from gateway.errors import MethodForbidden
from stockade.open_inference import grpc_service_pb2 as pb
from stockade.open_inference import model_config_pb2 as config_pb

SERVER_NAME = "stockade"
EXTENSIONS = ("classification", "model_configuration", "statistics")
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
ELSEWHERE = "open_inference_protocol"  # platform and backend of a model that another server runs, whatever that has

_DATA_TYPES: Mapping[str, config_pb.DataType.ValueType] = {
    name: config_pb.DataType.Value("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}") for name in DATATYPES
}

_TRACE_SETTINGS = {
    "trace_file": "",
    "trace_level": "OFF",
    "trace_rate": "0",
    "trace_count": "0",
    "log_frequency": "0",
    "trace_mode": "opentelemetry",
}


class Described(Protocol):
    """What is told of a model: `serving.bundles.bundle.Bundle`, restricted to the outputs that the caller may ask
    for.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...


class Totals(Protocol):
    """Counts and summed nanoseconds of one served model version since the process began (`models.statistics`)."""

    @property
    def requests(self) -> int:
        """Answered ones; `failures` are those that got none after they had been queued."""
        ...

    @property
    def failures(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def batches(self) -> int: ...
    @property
    def hits(self) -> int:
        """Requests that were answered from the cache; they are among `requests`."""
        ...

    @property
    def hit_ns(self) -> int: ...
    @property
    def last_unix_ms(self) -> int: ...
    @property
    def queue_ns(self) -> int: ...
    @property
    def screen_ns(self) -> int: ...
    @property
    def infer_ns(self) -> int: ...
    @property
    def failure_ns(self) -> int: ...


def server_metadata(build: str) -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(name=SERVER_NAME, version=build, extensions=EXTENSIONS)


def model_metadata(
    model: Described,
    versions: Sequence[str],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    *,
    elsewhere: bool = False,
) -> pb.ModelMetadataResponse:
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=versions,
        platform=ELSEWHERE if elsewhere else PLATFORM,
        inputs=[_tensor(spec) for spec in inputs],
        outputs=[_tensor(spec) for spec in outputs],
    )


def model_config(
    model: Described, inputs: Sequence[Spec], outputs: Sequence[Spec], rows_max: int, *, elsewhere: bool = False
) -> pb.ModelConfigResponse:
    """In Triton's terms: batching, one CPU instance, dimensions without the rows."""
    config = config_pb.ModelConfig(
        name=model.name,
        platform=ELSEWHERE if elsewhere else PLATFORM,
        backend=ELSEWHERE if elsewhere else BACKEND,
        max_batch_size=rows_max,
        version_policy=config_pb.ModelVersionPolicy(all=config_pb.ModelVersionPolicy.All()),
        dynamic_batching=config_pb.ModelDynamicBatching(),
    )
    for spec in inputs:
        config.input.add(name=spec.name, data_type=_DATA_TYPES[spec.datatype], dims=spec.shape[1:])
    for spec in outputs:
        labelled = bool(model.class_names) and spec.shape[1:] == (len(model.class_names),)
        config.output.add(
            name=spec.name,
            data_type=_DATA_TYPES[spec.datatype],
            dims=spec.shape[1:],
            label_filename="labels" if labelled else "",
        )
    config.instance_group.add(name=model.name, kind=config_pb.ModelInstanceGroup.KIND_CPU, count=1)
    return pb.ModelConfigResponse(config=config)


def model_statistics(models: Iterable[tuple[Described, Totals]]) -> pb.ModelStatisticsResponse:
    """Triton's counters. What it calls preparing the input is here screening it."""
    response = pb.ModelStatisticsResponse()
    for model, totals in models:
        answered = totals.requests
        response.model_stats.add(
            name=model.name,
            version=model.version,
            last_inference=totals.last_unix_ms,
            inference_count=totals.rows,
            execution_count=totals.batches,
            inference_stats=pb.InferStatistics(
                success=_duration(answered, totals.queue_ns + totals.screen_ns + totals.infer_ns),
                fail=_duration(totals.failures, totals.failure_ns),
                queue=_duration(answered, totals.queue_ns),
                compute_input=_duration(answered, totals.screen_ns),
                compute_infer=_duration(answered, totals.infer_ns),
                compute_output=_duration(answered, 0),
                cache_hit=_duration(totals.hits, totals.hit_ns),
            ),
        )
    return response


def repository_index(models: Iterable[tuple[Described, str]], *, ready_only: bool) -> pb.RepositoryIndexResponse:
    """`models` with why each cannot answer; an empty text: it can."""
    response = pb.RepositoryIndexResponse()
    for model, reason in models:
        if not reason:
            response.models.add(name=model.name, version=model.version, state="READY")
        elif not ready_only:
            response.models.add(name=model.name, version=model.version, state="UNAVAILABLE", reason=reason)
    return response


def trace_settings(request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
    """Triton's names for: nothing is traced at a client's wish. Raises MethodForbidden for an attempt to change it."""
    if request.settings:
        raise MethodForbidden
    response = pb.TraceSettingResponse()
    for key, value in _TRACE_SETTINGS.items():
        response.settings[key].value.append(value)
    return response


def log_settings(request: pb.LogSettingsRequest, level: str) -> pb.LogSettingsResponse:
    """Triton's names for the log level in force. Raises MethodForbidden for an attempt to change it."""
    if request.settings:
        raise MethodForbidden
    order = ("debug", "info", "warning", "error")
    rank = order.index(level)
    response = pb.LogSettingsResponse()
    response.settings["log_file"].string_param = ""
    response.settings["log_info"].bool_param = rank <= order.index("info")
    response.settings["log_warning"].bool_param = rank <= order.index("warning")
    response.settings["log_error"].bool_param = True
    response.settings["log_verbose_level"].uint32_param = int(level == "debug")
    response.settings["log_format"].string_param = "json"
    return response


def _tensor(spec: Spec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _duration(count: int, total_ns: int) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=total_ns)
