"""Triton (nvidia-pytriton: Python backend, dynamic batching) with the kiosk's graph.

Runs under the interpreter of the `triton` peer environment, with LD_LIBRARY_PATH on that Python's lib folder.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


class Kiosk:
    """One ONNX Runtime session of one thread; answers with the probabilities alone."""

    def __init__(self, model: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model), options)

    @batch  # type: ignore[untyped-decorator]  # pytriton is not installed where this is checked
    def infer(self, image: np.ndarray) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(["probabilities"], {"image": image})
        return outputs


def main() -> None:
    """Serve on loopback until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    args, _ = parser.parse_known_args()
    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=args.port,
        http_address="127.0.0.1",
        http_port=args.port + 1,
        allow_metrics=False,
    )
    workspace = args.directory / str(os.getpid())  # pytriton takes none that is there, and this may be the second try
    with Triton(config=config, workspace=workspace) as triton:
        triton.bind(
            model_name="kiosk",
            infer_func=Kiosk(args.model).infer,
            inputs=[Tensor(name="image", dtype=np.float32, shape=(28, 28))],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(10,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
