"""MLServer's generated stubs, unmodified: `python mlserver_stubs.py ADDRESS CA KEY IMAGE.npy`; prints JSON.

Empty packages stand for MLServer's own, which would import its whole server.
"""

import json
import sys
import types
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

bare = types.ModuleType("mlserver")
bare.__path__ = list(find_spec("mlserver").submodule_search_locations)
inner = types.ModuleType("mlserver.grpc")
inner.__path__ = [str(Path(bare.__path__[0]) / "grpc")]
sys.modules |= {"mlserver": bare, "mlserver.grpc": inner}

import grpc
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

address, ca, key, image_file = sys.argv[1:]
metadata = (("authorization", f"Bearer {key}"),)
with Path(image_file).open("rb") as file:  # the environment has no numpy: an .npy of float32 is a header and the values
    file.seek(8)
    file.seek(10 + int.from_bytes(file.read(2), "little"))
    raw = file.read()


def request(rows: int = 28) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="kiosk", id="m-1")
    made.inputs.add(name="image", datatype="FP32", shape=[1, rows, 28])
    made.raw_input_contents.append(raw[: rows * 28 * 4])
    return made


def refused(ask: object) -> str:
    try:
        ask()
    except grpc.RpcError as problem:
        return f"{problem.code().name} {problem.details()}"
    return "answered"


with grpc.secure_channel(address, grpc.ssl_channel_credentials(Path(ca).read_bytes())) as channel:
    stub = GRPCInferenceServiceStub(channel)
    answer = stub.ModelInfer(request(), metadata=metadata)
    model = stub.ModelMetadata(pb.ModelMetadataRequest(name="kiosk"), metadata=metadata)
    bare_stream = (*metadata, ("x-stockade-stream-format", "mlserver"))
    streamed = [reply.id for reply in stub.ModelStreamInfer(iter([request()] * 3), metadata=bare_stream)]
    wrong = stub.ModelStreamInfer(iter([request(), request(27), request()]), metadata=bare_stream)
    saw = {
        "version": version("mlserver"),
        "server": stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=metadata).name,
        "ready": stub.ModelReady(pb.ModelReadyRequest(name="kiosk"), metadata=metadata).ready,
        "model": [model.name, list(model.versions), model.inputs[0].name],
        "id": answer.id,
        "outputs": [output.name for output in answer.outputs],
        "wrong shape": refused(lambda: stub.ModelInfer(request(27), metadata=metadata)),
        "no key": refused(lambda: stub.ModelInfer(request())),
        "stream": streamed,
        "broken stream": refused(lambda: list(wrong)),
    }
sys.stdout.write(json.dumps(saw))
