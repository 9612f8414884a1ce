"""Model control by NVIDIA's tritonclient, unmodified: `python triton_control.py ADDRESS CA KEY MODEL`; prints JSON."""

import json
import sys

import tritonclient.grpc as triton

address, ca, key, model = sys.argv[1:]
headers = {"authorization": f"Bearer {key}"}


def states(client: triton.InferenceServerClient) -> dict[str, str]:
    index = client.get_model_repository_index(headers=headers)
    return {f"{each.name}/{each.version}": each.state for each in index.models}


with triton.InferenceServerClient(address, ssl=True, root_certificates=ca) as client:
    saw: dict[str, object] = {"before": states(client)}
    client.unload_model(model, headers=headers)
    saw["unloaded"] = [states(client), client.is_model_ready(model, headers=headers)]
    client.load_model(model, headers=headers)
    saw["loaded"] = [states(client), client.is_model_ready(model, headers=headers)]
    try:
        client.load_model(model, headers=headers, config="{}")
    except triton.InferenceServerException as problem:
        saw["pushed"] = f"{problem.status()} {problem.message()}"

sys.stdout.write(json.dumps(saw))
