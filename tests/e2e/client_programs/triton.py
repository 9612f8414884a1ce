"""NVIDIA's tritonclient, unmodified: `python triton.py ADDRESS CA KEY_ID SECRET IMAGE.npy`; prints JSON."""

import json
import queue
import sys
from importlib.metadata import version

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc.auth import BasicAuth

address, ca, key_id, secret, image_file = sys.argv[1:]
image = np.load(image_file)
bearer = {"authorization": f"Bearer {key_id}.{secret}"}
saw: dict[str, object] = {"version": version("tritonclient")}


def tensor(values: np.ndarray, datatype: str = "FP32") -> triton.InferInput:
    made = triton.InferInput("image", list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def refused(ask: object) -> str:
    try:
        ask()
    except triton.InferenceServerException as problem:
        return f"{problem.status()} {problem.message()}"
    return "answered"


with triton.InferenceServerClient(address, ssl=True, root_certificates=ca) as client:
    metadata = client.get_server_metadata(headers=bearer)
    saw["server"] = [metadata.name, client.is_server_live(headers=bearer), client.is_server_ready(headers=bearer)]
    model = client.get_model_metadata("kiosk", headers=bearer)
    saw["model"] = [model.name, list(model.versions), model.inputs[0].datatype, [int(n) for n in model.inputs[0].shape]]
    saw["ready"] = client.is_model_ready("kiosk", headers=bearer)
    saw["config"] = client.get_model_config("kiosk", headers=bearer).config.name
    answer = client.infer("kiosk", [tensor(image)], request_id="t-1", headers=bearer)
    saw["class"] = int(answer.as_numpy("probabilities")[0].argmax())
    saw["id"] = answer.get_response().id
    chosen = [triton.InferRequestedOutput("probabilities")]
    asked = client.infer("kiosk", [tensor(image)], outputs=chosen, headers=bearer, priority=1, timeout=5_000_000)
    saw["outputs"] = [output.name for output in asked.get_response().outputs]
    ranked = [triton.InferRequestedOutput("probabilities", class_count=2)]
    saw["ranked"] = [
        each.decode()
        for each in client.infer("kiosk", [tensor(image)], outputs=ranked, headers=bearer)
        .as_numpy("probabilities")
        .ravel()
    ]
    saw["wrong shape"] = refused(lambda: client.infer("kiosk", [tensor(image[:, :27])], headers=bearer))
    saw["no key"] = refused(lambda: client.infer("kiosk", [tensor(image)]))

    results: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: results.put((result, error)), headers=bearer)
    for number in range(8):
        client.async_stream_infer("kiosk", [tensor(image)], request_id=f"s-{number}")
    client.async_stream_infer("kiosk", [tensor(image[:, :27])], request_id="s-wrong")
    client.async_stream_infer("kiosk", [tensor(image)], request_id="s-last")
    streamed = []
    for _ in range(10):
        result, error = results.get(timeout=30)
        streamed.append(error.message() if error else result.get_response().id)
    client.stop_stream()
    saw["stream"] = streamed

with triton.InferenceServerClient(address, ssl=True, root_certificates=ca) as client:
    client.register_plugin(BasicAuth(key_id, secret))
    saw["basic"] = int(client.infer("kiosk", [tensor(image)]).as_numpy("probabilities")[0].argmax())

sys.stdout.write(json.dumps(saw))
