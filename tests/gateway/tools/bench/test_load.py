from pathlib import Path

import numpy as np
import pytest

from gateway.tools.bench.load import (
    PACED_RPS_PER_CONNECTION_MAX,
    SHAPES,
    H2loadFailed,
    H2loadReport,
    InFlight,
    Load,
    NotAnAnswer,
    closed,
    echo_reply,
    fixed_count,
    framed,
    image_request,
    paced,
    parse_log,
    parse_report,
    read_answer,
    run,
    sample_floats,
)
from stockade.open_inference import grpc_service_pb2 as oip

PRINTED = """\
starting benchmark...
Main benchmark duration is over for thread #0. Stopping all clients.

finished in 3.01s, 4198.33 req/s, 739.51KB/s
requests: 12595 total, 12851 started, 12595 done, 12594 succeeded, 1 failed, 2 errored, 3 timeout
status codes: 12594 2xx, 0 3xx, 0 4xx, 1 5xx
traffic: 2.17MB (2271784) total, 234.39KB (240017) headers (space savings 81.85%), 1.50MB (1574375) data
                     min         max         mean         sd        +/- sd
time for request:      337us    116.28ms     60.17ms     18.79ms    80.21%
"""
LINES = ("finished in", "requests:", "traffic:")
LOAD = Load("http://127.0.0.1:1/x", Path("body"), (("authorization", "Bearer k"),))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
def test_a_frame_is_five_bytes_and_the_message(size):
    body = framed(b"x" * size)
    assert body[0] == 0
    assert int.from_bytes(body[1:5], "big") == size
    assert body[5:] == b"x" * size


def test_the_request_carries_one_raw_image():
    image = np.arange(784, dtype=np.float64).reshape(28, 28) / 784
    request = oip.ModelInferRequest.FromString(image_request(image))
    (tensor,) = request.inputs
    assert (request.model_name, tensor.name, tensor.datatype) == ("kiosk", "image", "FP32")
    assert list(tensor.shape) == [1, 28, 28]
    sent = np.frombuffer(request.raw_input_contents[0], dtype="<f4").reshape(28, 28)
    np.testing.assert_array_equal(sent, image.astype(np.float32))


def edited(edit):
    response = oip.ModelInferResponse.FromString(echo_reply())
    edit(response)
    return response.SerializeToString()


def with_energy(response):
    response.outputs.add(name="energy", datatype="FP32", shape=[1])
    response.raw_output_contents.append(b"\0\0\0\0")


@pytest.mark.parametrize("reply", [echo_reply(), edited(with_energy)])
def test_the_probabilities_may_stand_beside_other_outputs(reply):
    assert read_answer(reply).tolist() == pytest.approx([0.1] * 10)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (edited(lambda response: response.ClearField("outputs")), "not the probabilities"),
        (edited(lambda response: response.ClearField("raw_output_contents")), "not raw"),
        (edited(lambda response: response.outputs[0].shape.__setitem__(1, 9)), "shape"),
        (edited(lambda response: response.raw_output_contents.__setitem__(0, b"\0" * 36)), "36 bytes"),
        (edited(lambda response: response.raw_output_contents.__setitem__(0, b"\0" * 40)), "sum to one"),
        (b"\xff\xff\xff", "no ModelInferResponse"),
    ],
)
def test_what_is_no_prediction_is_refused(reply, problem):
    with pytest.raises(NotAnAnswer, match=problem):
        read_answer(reply)


def test_the_images_are_real_ones_in_range():
    image = sample_floats()[0]
    assert (image.shape, image.dtype) == ((28, 28), np.float32)
    assert image.min() == 0.0
    assert 0.5 < image.max() <= 1.0


def test_a_report_is_read_to_the_byte():
    assert parse_report(PRINTED) == H2loadReport(
        3.01, 4198.33, done=12595, succeeded=12594, failed=1, errored=2, timeout=3, data_bytes=1574375
    )


@pytest.mark.parametrize(
    ("printed", "seconds"),
    [("340us", 0.00034), ("12.50ms", 0.0125), ("3s", 3.0), ("1.50m", 90.0), ("2h", 7200.0)],
)
def test_every_unit_of_time_is_read(printed, seconds):
    assert parse_report(PRINTED.replace("3.01s", printed)).seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    "printed",
    [
        *("\n".join(line for line in PRINTED.splitlines() if not line.startswith(gone)) for gone in LINES),
        *(PRINTED.replace("3.01s", number) for number in ("3.0.1s", "..s")),
    ],
)
def test_a_report_that_lacks_a_line_or_whose_time_is_no_number_is_refused(printed):
    with pytest.raises(H2loadFailed, match="no report"):
        parse_report(printed)


def test_percentiles_come_from_single_requests_that_succeeded_and_lines_may_gain_columns():
    lines = [f"1795507986737822\t200\t{micros}\n" for micros in range(1000, 101_000, 1000)]
    found = parse_log([*lines, "1795507986737822\t503\t9\n", "1\t-1\t9\tmore\n"])
    assert (found.count, found.p50_ms, found.p99_ms) == (100, 50.5, pytest.approx(99.01))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        *((["1\t200\t1\n", line], "another form") for line in ("", "1\t200\n", "1\t200\tslow\n")),
        ([], "no successful"),
        (["1\t503\t1\n"], "no successful"),
    ],
)
def test_a_log_of_another_form_or_without_success_is_refused(lines, problem):
    with pytest.raises(H2loadFailed, match=problem):
        parse_log(lines)


def test_the_shapes_are_one_thirty_two_and_two_hundred_fifty_six_in_flight():
    assert [shape.total for shape in SHAPES] == [1, 32, 256]


def option(command, name):
    return command[command.index(name) + 1]


def test_a_closed_loop_keeps_its_shape_for_its_time():
    command = closed(LOAD, InFlight(4, 8), 2.5)
    assert (option(command, "-c"), option(command, "-m"), option(command, "-D")) == ("4", "8", "2500ms")
    assert command[-1] == LOAD.url
    assert {"content-type: application/grpc", "te: trailers", "authorization: Bearer k"} <= set(command)
    assert option(command, "-d") == "body"


def test_a_fixed_count_sends_so_many():
    assert option(fixed_count(LOAD, InFlight(8, 32), 10_000), "-n") == "10000"


@pytest.mark.parametrize("rate", [0.5, 99.0, 100.0, 101.0, 2499.5, 40_000.0])
def test_a_paced_run_keeps_each_connection_below_the_bursts_of_the_timer(rate):
    command = paced(LOAD, InFlight(1, 1), rate, 3)
    connections, per_connection = int(option(command, "-c")), float(option(command, "--rps"))
    assert per_connection <= PACED_RPS_PER_CONNECTION_MAX
    assert connections * per_connection == pytest.approx(rate, rel=0.01)


def test_a_paced_run_never_has_more_in_flight_than_its_shape_rounded_up_to_its_connections():
    command = paced(LOAD, InFlight(8, 32), 2400, 3)
    connections, streams = int(option(command, "-c")), int(option(command, "-m"))
    assert connections == 24
    assert 256 <= connections * streams < 256 + connections


def test_a_paced_run_opens_all_its_connections_also_when_it_is_slow():
    command = paced(LOAD, InFlight(8, 32), 0.1, 1)
    assert (option(command, "-c"), option(command, "-n")) == ("8", "8")


def test_a_load_generator_that_fails_is_no_result(tmp_path):
    with pytest.raises(H2loadFailed, match="ended with 3") as caught:
        run(["sh", "-c", "echo nothing; exit 3"], 5)
    assert "nothing" in caught.value.output
