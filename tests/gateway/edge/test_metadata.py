"""What the server says about itself, read with the clients' own message classes."""

from dataclasses import dataclass, replace

import pytest

from gateway.edge import metadata
from gateway.errors import MethodForbidden
from stockade.open_inference import grpc_service_pb2 as pb
from stockade.open_inference import model_config_pb2 as config_pb
from tests.gateway.wire_samples import CLIENTS, INPUTS, OUTPUTS, client_message

TRITON = ("tritonclient-2.41.0", "tritonclient-2.73.0")


@dataclass(frozen=True, slots=True)
class Model:
    name: str = "kiosk"
    version: str = "1"
    class_names: tuple[str, ...] = ("shirt", "shoe", "bag", "coat")


@dataclass(frozen=True, slots=True)
class Totals:
    requests: int = 5
    failures: int = 1
    rows: int = 40
    batches: int = 3
    last_unix_ms: int = 1_700_000_000_000
    queue_ns: int = 100
    screen_ns: int = 20
    infer_ns: int = 3
    failure_ns: int = 7
    hits: int = 2
    hit_ns: int = 9


def read(client, name, message):
    return client_message(client, name).FromString(message.SerializeToString())


@pytest.mark.parametrize("client", CLIENTS)
def test_server_metadata(client):
    told = read(client, "ServerMetadataResponse", metadata.server_metadata("0.1.0"))
    assert (told.name, told.version) == ("stockade", "0.1.0")
    assert "classification" in told.extensions


@pytest.mark.parametrize("client", CLIENTS)
def test_model_metadata(client):
    told = read(client, "ModelMetadataResponse", metadata.model_metadata(Model(), ("1", "2"), INPUTS, OUTPUTS))
    assert (told.name, list(told.versions)) == ("kiosk", ["1", "2"])
    assert [(t.name, t.datatype, list(t.shape)) for t in told.inputs] == [("image", "FP32", [-1, 2, 3])]
    assert [t.name for t in told.outputs] == ["probabilities", "energy", "label"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_where_a_model_runs_is_not_made_up(elsewhere):
    told = metadata.model_metadata(Model(), ("1",), INPUTS, OUTPUTS, elsewhere=elsewhere)
    config = metadata.model_config(Model(), INPUTS, OUTPUTS, 256, elsewhere=elsewhere).config
    expected = "open_inference_protocol" if elsewhere else "onnxruntime_onnx"
    assert told.platform == config.platform == expected
    assert config.backend == (expected if elsewhere else "onnxruntime")


@pytest.mark.parametrize("client", TRITON)
def test_model_config_describes_a_batching_model(client):
    config = read(client, "ModelConfigResponse", metadata.model_config(Model(), INPUTS, OUTPUTS, 256)).config
    assert (config.name, config.max_batch_size) == ("kiosk", 256)
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [("image", config_pb.TYPE_FP32, [2, 3])]
    assert [(t.name, t.data_type, list(t.dims), bool(t.label_filename)) for t in config.output] == [
        ("probabilities", config_pb.TYPE_FP32, [4], True),
        ("energy", config_pb.TYPE_FP32, [], False),
        ("label", config_pb.TYPE_STRING, [], False),
    ]


def test_outputs_of_a_model_without_class_names_have_no_labels():
    config = metadata.model_config(replace(Model(), class_names=()), INPUTS, OUTPUTS, 8).config
    assert not any(output.label_filename for output in config.output)


@pytest.mark.parametrize("client", TRITON)
def test_model_statistics(client):
    (told,) = read(client, "ModelStatisticsResponse", metadata.model_statistics([(Model(), Totals())])).model_stats
    assert (told.name, told.version, told.last_inference) == ("kiosk", "1", 1_700_000_000_000)
    assert (told.inference_count, told.execution_count) == (40, 3)
    stats = told.inference_stats
    assert {field.name: (value.count, value.ns) for field, value in stats.ListFields()} == {
        "success": (5, 123),
        "fail": (1, 7),
        "queue": (5, 100),
        "compute_input": (5, 20),
        "compute_infer": (5, 3),
        "compute_output": (5, 0),
        "cache_hit": (2, 9),
    }


@pytest.mark.parametrize("client", [*TRITON, "mlserver-1.7.1"])
@pytest.mark.parametrize(("ready_only", "states"), [(False, ["READY", "UNAVAILABLE"]), (True, ["READY"])])
def test_repository_index(client, ready_only, states):
    models = [(Model(), ""), (Model(version="2"), "unloaded")]
    told = read(client, "RepositoryIndexResponse", metadata.repository_index(models, ready_only=ready_only))
    assert [model.state for model in told.models] == states
    assert [model.version for model in told.models] == ["1", "2"][: len(states)]
    assert [model.reason for model in told.models] == ["", "unloaded"][: len(states)]


@pytest.mark.parametrize("client", TRITON)
def test_settings_can_be_read(client):
    trace = read(client, "TraceSettingResponse", metadata.trace_settings(pb.TraceSettingRequest(model_name="kiosk")))
    assert list(trace.settings["trace_level"].value) == ["OFF"]
    log = read(client, "LogSettingsResponse", metadata.log_settings(pb.LogSettingsRequest(), "info"))
    assert log.settings["log_info"].bool_param
    assert log.settings["log_verbose_level"].uint32_param == 0


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("debug", (True, True, True, 1)),
        ("info", (True, True, True, 0)),
        ("warning", (False, True, True, 0)),
        ("error", (False, False, True, 0)),
    ],
)
def test_each_log_level_in_tritons_words(level, told):
    settings = metadata.log_settings(pb.LogSettingsRequest(), level).settings
    flags = (settings[name].bool_param for name in ("log_info", "log_warning", "log_error"))
    assert (*flags, settings["log_verbose_level"].uint32_param) == told


def test_settings_cannot_be_changed():
    trace, log = pb.TraceSettingRequest(), pb.LogSettingsRequest()
    trace.settings["trace_level"].value.append("TIMESTAMPS")
    log.settings["log_file"].string_param = "/etc/passwd"
    with pytest.raises(MethodForbidden):
        metadata.trace_settings(trace)
    with pytest.raises(MethodForbidden):
        metadata.log_settings(log, "info")
