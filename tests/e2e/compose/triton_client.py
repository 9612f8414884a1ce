"""A few images by NVIDIA's tritonclient, as any user has it: `triton_client.py ADDRESS SITE`."""

import sys
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

address, site = sys.argv[1], Path(sys.argv[2])
key = (site / "clients/kiosk-7.key").read_text().strip()
headers = {"authorization": f"Bearer {key}"}
client = InferenceServerClient(address, ssl=True, root_certificates=str(site / "tls/ca.crt"))
metadata = client.get_model_metadata("kiosk", headers=headers)
(shape,) = [tensor.shape for tensor in metadata.inputs if tensor.name == "image"]
pixels = np.zeros((4, *shape[1:]), np.float32)
tensor = InferInput("image", pixels.shape, "FP32")
tensor.set_data_from_numpy(pixels)
result = client.infer("kiosk", [tensor], headers=headers).as_numpy("probabilities")
assert result.shape[0] == 4, result.shape
sys.stdout.write(f"{len(result)} rows of {metadata.name}\n")
