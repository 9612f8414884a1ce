"""Tensors, requests and client message classes for the tests of the wire."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from gateway.codec import CodecLimits
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest

VECTORS = Path(__file__).parent.parent / "vectors" / "wire"
CLIENTS = ("tritonclient-2.41.0", "tritonclient-2.73.0", "kserve-0.21.0", "mlserver-1.7.1")
LIMITS = CodecLimits()


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None


IMAGE = Tensor("image", "FP32", (-1, 2, 3), 0.0, 1.0)
INPUTS = (IMAGE,)
OUTPUTS = (
    Tensor("probabilities", "FP32", (-1, 4)),
    Tensor("energy", "FP32", (-1,)),
    Tensor("label", "BYTES", (-1,)),
)


def request(values: np.ndarray | None = None, *, raw: bool = True, **fields) -> ModelInferRequest:
    """A request for IMAGE; one row of a half each when nothing is said."""
    array = np.full((1, 2, 3), 0.5, np.float32) if values is None else values.astype(np.float32)
    message = ModelInferRequest(model_name="kiosk", id="42", **fields)
    tensor = message.inputs.add(name="image", datatype="FP32", shape=array.shape)
    if raw:
        message.raw_input_contents.append(array.tobytes())
    else:
        tensor.contents.fp32_contents.extend(array.ravel().tolist())
    return message


@cache
def client_pool(client: str) -> DescriptorPool:
    """The descriptors of a client in a pool of their own, as its process would have them."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString((VECTORS / f"{client}.binpb").read_bytes()).file:
        pool.Add(file)
    return pool


def client_message(client: str, name: str):
    """The class of a client's message."""
    return GetMessageClass(client_pool(client).FindMessageTypeByName(f"inference.{name}"))
