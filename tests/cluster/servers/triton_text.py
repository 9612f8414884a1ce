"""Triton (nvidia-pytriton) with a model of text. Runs under the interpreter of the `triton` peer environment."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


@batch
def upper(words: np.ndarray) -> dict[str, np.ndarray]:
    text = np.char.decode(words.astype(np.bytes_), "utf-8")
    return {"upper": np.char.encode(np.char.upper(text), "utf-8"), "length": np.char.str_len(text).astype(np.int64)}


def main(port: int, directory: Path) -> None:
    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=port,
        http_address="127.0.0.1",
        http_port=port + 1,
        allow_metrics=False,
    )
    with Triton(config=config, workspace=directory) as triton:
        triton.bind(
            model_name="text",
            infer_func=upper,
            inputs=[Tensor(name="words", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="upper", dtype=bytes, shape=(1,)), Tensor(name="length", dtype=np.int64, shape=(1,))],
            config=ModelConfig(max_batch_size=4),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
