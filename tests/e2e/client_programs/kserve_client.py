"""KServe's InferenceGRPCClient, unmodified: `python kserve_client.py ADDRESS CA KEY IMAGE.npy`; prints JSON.

KServe's package imports its whole server (Kubernetes, Ray, ...) when it is imported. An empty package in its place lets
Python find the client's own modules, which are KServe's files as they are.
"""

import asyncio
import json
import logging
import sys
import types
from importlib.metadata import version
from importlib.util import find_spec

bare = types.ModuleType("kserve")
bare.__path__ = list(find_spec("kserve").submodule_search_locations)
sys.modules["kserve"] = bare

import grpc
import numpy as np
from kserve.inference_client import InferenceGRPCClient
from kserve.protocol.infer_type import InferInput, InferRequest

address, ca, key, image_file = sys.argv[1:]
headers = (("authorization", f"Bearer {key}"),)
logging.disable()


def request(values: np.ndarray) -> InferRequest:
    tensor = InferInput("image", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=True)
    return InferRequest("kiosk", [tensor], request_id="k-1")


async def refused(asked: object) -> str:
    try:
        await asked
    except grpc.aio.AioRpcError as problem:
        return f"{problem.code().name} {problem.details()}"
    return "answered"


async def main() -> dict[str, object]:
    image = np.load(image_file)
    async with InferenceGRPCClient(address, use_ssl=True, root_certificates=ca) as client:
        answer = await client.infer(request(image), headers=headers)
        outputs = {output.name: output for output in answer.outputs}
        return {
            "version": version("kserve"),
            "live": await client.is_server_live(headers=headers),
            "ready": await client.is_server_ready(headers=headers),
            "model ready": await client.is_model_ready("kiosk", headers=headers),
            "id": answer.id,
            "class": int(outputs["probabilities"].as_numpy()[0].argmax()),
            "wrong shape": await refused(client.infer(request(image[:, :27]), headers=headers)),
            "no key": await refused(client.infer(request(image))),
        }


sys.stdout.write(json.dumps(asyncio.run(main())))
