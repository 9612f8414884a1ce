"""The other side of the wire: a request that we send to another server, and what comes back.

Rules:
- A request holds names and tensors, raw; nothing of the client who asked, neither its id nor its parameters.
- A reply is read like a client's message: its names, datatypes, shapes, lengths, bounds and finiteness are the declared
  ones, or it is TensorInvalid, which names the field and never a value.
- Outputs that were not asked for are passed over: some servers answer with all they have.
"""

from collections.abc import Mapping, Sequence

from gateway.codec.datatypes import DATATYPES, Array
from gateway.codec.parse import parse_reply
from gateway.codec.request import CodecLimits, Spec
from gateway.codec.tensors import check_domain, from_contents, from_raw, to_raw_bytes, to_wire
from gateway.errors import TensorInvalid
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest, ModelInferResponse


def write_request(
    model_name: str, model_version: str, inputs: Mapping[str, Array], specs: Sequence[Spec], outputs: Sequence[Spec]
) -> bytes:
    """The serialized ModelInferRequest for these rows of `specs`; it asks for `outputs` by name."""
    request = ModelInferRequest(model_name=model_name, model_version=model_version)
    for spec in specs:
        array, datatype = inputs[spec.name], DATATYPES[spec.datatype]
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        raw = to_raw_bytes(array) if datatype.name == "BYTES" else to_wire(array, datatype).tobytes()
        request.raw_input_contents.append(raw)
    for spec in outputs:
        request.outputs.add(name=spec.name)
    return request.SerializeToString()


def read_reply(
    body: bytes, model: tuple[str, str], outputs: Sequence[Spec], rows: int, limits: CodecLimits
) -> dict[str, Array]:
    """The declared `outputs` of `rows` rows in a reply, read-only. `model` is the name and the version that were asked.

    Raises MalformedMessage, RequestTooLarge (the message is beyond `limits`) or TensorInvalid.
    """
    message = parse_reply(body, limits)
    name, version = model
    if message.model_name not in {"", name}:  # some servers leave it out
        raise TensorInvalid("model_name", "is not the one that was asked")
    if version and message.model_version not in {"", version}:
        raise TensorInvalid("model_version", "is not the one that was asked")
    raw = message.raw_output_contents
    if raw and len(raw) != len(message.outputs):
        raise TensorInvalid("raw_output_contents", "does not have one entry per output")
    declared = {spec.name: spec for spec in outputs}
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(message.outputs):
        spec = declared.get(tensor.name)
        if spec is None:
            continue
        if spec.name in arrays:
            raise TensorInvalid(f"outputs[{index}].name", "stands here for the second time")
        arrays[spec.name] = _output(tensor, raw[index] if raw else None, spec, f"outputs[{spec.name}]", rows)
    for name in declared:
        if name not in arrays:
            raise TensorInvalid(f"outputs[{name}]", "is missing")
    return arrays


def _output(
    tensor: ModelInferResponse.InferOutputTensor, raw: bytes | None, spec: Spec, field: str, rows: int
) -> Array:
    """The array of one output, once it is known to be as declared."""
    if tensor.datatype != spec.datatype:
        raise TensorInvalid(f"{field}.datatype", "is not the declared one")
    shape = (rows, *spec.shape[1:])
    if tuple(tensor.shape) != shape:
        raise TensorInvalid(f"{field}.shape", "is not the number of rows and the declared sizes")
    elements, datatype = 1, DATATYPES[spec.datatype]
    for size in shape:
        elements *= size
    if raw is None:
        flat = from_contents(tensor.contents, datatype, elements, f"{field}.contents")
    else:
        flat = from_raw(raw, datatype, elements, f"{field}, raw")
    check_domain(flat, spec, field)
    return flat.reshape(shape)
