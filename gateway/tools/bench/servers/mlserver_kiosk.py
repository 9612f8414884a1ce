"""MLServer with the kiosk's graph as a custom runtime. Runs under the interpreter of the `mlserver` peer environment.

`python mlserver_kiosk.py` writes the two settings files MLServer reads and becomes `mlserver start`; MLServer then
imports this file for `KioskRuntime`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class KioskRuntime(MLModel):  # type: ignore[misc]  # MLServer is not installed where this is checked
    """One ONNX Runtime session of one thread; answers with the probabilities alone."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        image = NumpyCodec.decode_input(payload.inputs[0])
        (probabilities,) = self._session.run(["probabilities"], {"image": image})
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output("probabilities", probabilities)],
        )


def write_settings(directory: Path, args: argparse.Namespace) -> None:
    """Loopback only; no debug log of each call, no metrics interceptor: both cost MLServer more than they tell here."""
    server = {
        "debug": False,
        "host": "127.0.0.1",
        "grpc_port": args.port,
        "http_port": args.port + 1,
        "metrics_endpoint": None,
        "parallel_workers": 0,  # infer in the server's own process
    }
    model = {
        "name": "kiosk",
        "implementation": "mlserver_kiosk.KioskRuntime",
        "parameters": {"uri": str(args.model.resolve()), "version": "1"},
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "settings.json").write_text(json.dumps(server))
    (directory / "model-settings.json").write_text(json.dumps(model))


def main() -> None:
    """Write the settings, then become MLServer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    args, _ = parser.parse_known_args()
    write_settings(args.directory, args)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "mlserver.cli.main", "start", str(args.directory)]
    os.chdir(args.directory)
    os.execve(sys.executable, command, environment)  # noqa: S606  # no shell, our own interpreter


if __name__ == "__main__":
    main()
