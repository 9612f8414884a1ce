"""A parsed request to arrays that fit the model, or the first thing about it that does not."""

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType

from gateway.codec.datatypes import DATATYPES, Array
from gateway.codec.parameters import check_parameters, whole_number
from gateway.codec.request import CodecLimits, InferRequest, Spec
from gateway.codec.tensors import check_domain, from_contents, from_raw
from gateway.errors import RequestTooLarge, TensorInvalid
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest

_NOTHING: Mapping[str, int] = MappingProxyType({})


def decode(
    message: ModelInferRequest, inputs: Sequence[Spec], outputs: Sequence[Spec], limits: CodecLimits
) -> InferRequest:
    """Check `message` against the declared tensors and turn its contents into arrays.

    `outputs` are the ones this caller may ask for. Raises TensorInvalid or RequestTooLarge.
    """
    answer_raw = bool(message.raw_input_contents) or not message.inputs
    arrays, rows = _decode_inputs(message, inputs, limits)
    requested, classification = _decode_outputs(message, outputs, answer_raw, limits)
    priority, timeout_us = 0, None
    if message.parameters:
        check_parameters(message.parameters, "parameters", limits)
        priority = whole_number(message.parameters, "priority", "parameters") or 0
        timeout_us = whole_number(message.parameters, "timeout", "parameters")
    return InferRequest(
        model_name=message.model_name,
        model_version=message.model_version,
        id=message.id,
        inputs=arrays,
        rows=rows,
        raw=answer_raw,
        requested_outputs=requested,
        classification=classification,
        priority=priority,
        timeout_us=timeout_us,
    )


def _decode_inputs(
    message: ModelInferRequest, specs: Sequence[Spec], limits: CodecLimits
) -> tuple[dict[str, Array], int]:
    """The arrays by name, and the number of rows that all of them have."""
    declared = {spec.name: spec for spec in specs}
    tensors, raw = message.inputs, message.raw_input_contents
    if len(tensors) > limits.tensors_max:
        raise RequestTooLarge("inputs", limits.tensors_max)
    if raw and len(raw) != len(tensors):
        raise TensorInvalid("raw_input_contents", "does not have one entry per input")
    arrays: dict[str, Array] = {}
    rows = 1
    for index, tensor in enumerate(tensors):
        name = tensor.name
        spec = declared.get(name)
        if spec is None:
            raise TensorInvalid(f"inputs[{index}].name", "is not an input of the model")
        if name in arrays:
            raise TensorInvalid(f"inputs[{index}].name", "stands here for the second time")
        shape = _checked_shape(tensor, spec, index, limits)
        if index and shape[0] != rows:
            raise TensorInvalid(f"inputs[{index}].shape[0]", "is not the number of rows of the input before it")
        rows = shape[0]
        elements = prod(shape)  # of Python's integers: a product cannot overflow
        if elements > limits.elements_max:
            raise RequestTooLarge("elements of a tensor", limits.elements_max)
        arrays[name] = _elements(tensor, raw[index] if raw else None, spec, index, elements).reshape(shape)
    if len(arrays) < len(declared):
        missing = next(name for name in declared if name not in arrays)
        raise TensorInvalid(f"inputs[{missing}]", "is missing")
    return arrays, rows


def _checked_shape(
    tensor: ModelInferRequest.InferInputTensor, spec: Spec, index: int, limits: CodecLimits
) -> tuple[int, ...]:
    """The shape, once it is known to be the declared one with every free dimension from 1 up."""
    if tensor.datatype != spec.datatype:
        raise TensorInvalid(f"inputs[{index}].datatype", "is not the one that the model declares")
    if tensor.parameters:
        check_parameters(tensor.parameters, f"inputs[{index}].parameters", limits)
    if len(tensor.shape) != len(spec.shape):
        raise TensorInvalid(f"inputs[{index}].shape", "has not as many dimensions as the model declares")
    shape = tuple(tensor.shape)
    if shape[0] < 1 or spec.shape[0] >= 0 or shape[1:] != spec.shape[1:]:  # mostly only the rows are free
        for axis, (size, wanted) in enumerate(zip(shape, spec.shape, strict=True)):
            if size < 1 if wanted < 0 else size != wanted:
                raise TensorInvalid(f"inputs[{index}].shape[{axis}]", "is not what the model declares")
    if shape[0] > limits.rows_max:
        raise RequestTooLarge("rows", limits.rows_max)
    return shape


def _elements(
    tensor: ModelInferRequest.InferInputTensor, raw: bytes | None, spec: Spec, index: int, elements: int
) -> Array:
    """The flat array of one input, from wherever the message holds it."""
    datatype = DATATYPES[spec.datatype]
    if raw is None:
        field = f"inputs[{index}].contents"
        flat = from_contents(tensor.contents, datatype, elements, field)
    else:
        field = f"raw_input_contents[{index}]"
        if tensor.HasField("contents"):
            raise TensorInvalid(f"inputs[{index}].contents", "stands beside raw_input_contents")
        flat = from_raw(raw, datatype, elements, field)
    check_domain(flat, spec, field)
    return flat


def _decode_outputs(
    message: ModelInferRequest, specs: Sequence[Spec], answer_raw: bool, limits: CodecLimits
) -> tuple[tuple[str, ...] | None, Mapping[str, int]]:
    """The names asked for, and for those asked as classes, how many."""
    declared = {spec.name: spec for spec in specs}
    if not message.outputs:
        if not answer_raw:
            _require_contents(specs, "outputs")
        return None, _NOTHING
    if len(message.outputs) > limits.tensors_max:
        raise RequestTooLarge("outputs", limits.tensors_max)
    names: list[str] = []
    classification: dict[str, int] = {}
    for index, output in enumerate(message.outputs):
        name = output.name
        spec = declared.get(name)
        if spec is None:
            raise TensorInvalid(f"outputs[{index}].name", "is not an output of the model")
        if name in names:
            raise TensorInvalid(f"outputs[{index}].name", "stands here for the second time")
        names.append(name)
        count = _classes_asked(output, spec, f"outputs[{index}].parameters", limits) if output.parameters else 0
        if count:
            classification[name] = count
        elif not answer_raw:
            _require_contents((spec,), f"outputs[{index}]")
    return tuple(names), classification


def _classes_asked(
    output: ModelInferRequest.InferRequestedOutputTensor, spec: Spec, field: str, limits: CodecLimits
) -> int:
    """How many of the best classes to answer with; 0 for the numbers themselves."""
    check_parameters(output.parameters, field, limits)
    count = whole_number(output.parameters, "classification", field) or 0
    if count and spec.datatype in {"BYTES", "BOOL"}:
        raise TensorInvalid(f"{field}[classification]", "needs an output of numbers")
    return count


def _require_contents(specs: Sequence[Spec], field: str) -> None:
    if any(DATATYPES[spec.datatype].contents is None for spec in specs):
        raise TensorInvalid(field, "can be answered raw only: send raw_input_contents")
