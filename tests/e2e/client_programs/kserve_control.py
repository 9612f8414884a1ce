"""Model control with KServe's messages: `python kserve_control.py ADDRESS CA KEY MODEL`; prints JSON.

KServe's own client has no method for it, so these are the stubs it is made with.
"""

import json
import sys
import types
from importlib.util import find_spec
from pathlib import Path

bare = types.ModuleType("kserve")
bare.__path__ = list(find_spec("kserve").submodule_search_locations)
sys.modules["kserve"] = bare

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

address, ca, key, model = sys.argv[1:]
metadata = (("authorization", f"Bearer {key}"),)
credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())

with grpc.secure_channel(address, credentials) as channel:
    stub = GRPCInferenceServiceStub(channel)
    unloaded = stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=model), metadata=metadata)
    gone = stub.ModelReady(pb.ModelReadyRequest(name=model), metadata=metadata).ready
    loaded = stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=model), metadata=metadata)
    back = stub.ModelReady(pb.ModelReadyRequest(name=model), metadata=metadata).ready

saw = {
    "unloaded": [unloaded.model_name, unloaded.isUnloaded, gone],
    "loaded": [loaded.model_name, loaded.isLoaded, back],
}
sys.stdout.write(json.dumps(saw))
