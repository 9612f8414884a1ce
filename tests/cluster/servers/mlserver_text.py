"""MLServer with a model of text, under the interpreter of the `mlserver` peer environment.

Its settings list what the model takes and gives, so that MLServer tells.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Upper(MLModel):
    """Answers each word in capitals, and its length."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        words = StringCodec.decode_input(payload.inputs[0])
        lengths = np.array([[len(word)] for word in words], np.int64)
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[
                StringCodec.encode_output("upper", [word.upper() for word in words]),
                NumpyCodec.encode_output("length", lengths),
            ],
        )


def tensor(name: str, datatype: str) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": [-1, 1]}


def main(port: int, directory: Path) -> None:
    server = {"debug": False, "host": "127.0.0.1", "grpc_port": port, "http_port": port + 1, "parallel_workers": 0}
    model = {
        "name": "text",
        "implementation": "mlserver_text.Upper",
        "inputs": [tensor("words", "BYTES")],
        "outputs": [tensor("upper", "BYTES"), tensor("length", "INT64")],
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "settings.json").write_text(json.dumps(server | {"metrics_endpoint": None}))
    (directory / "model-settings.json").write_text(json.dumps(model))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    os.chdir(directory)
    os.execve(sys.executable, [sys.executable, "-m", "mlserver.cli.main", "start", str(directory)], environment)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
