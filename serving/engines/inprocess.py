"""ONNX Runtime in this process: the only module that imports it.

One session for a bundle, made from the verified bytes in memory. A call runs on the thread that makes it, with no pool
of its own (two threads a request gave a p99 of 10-90 ms under load) and no spinning; the GIL is free while it runs, so
parallelism is the number of threads that call. The library takes 20 MB, so it is imported with the first session: a
supervisor has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import DATATYPES, TensorSpec
from serving.errors import BackendFailed, EngineClosed, GraphRejected

_LOG_FATAL_ONLY = 4
_DYNAMIC = -1


class Session(Protocol):
    """What is used of the runtime's `InferenceSession`. All of it raises what the runtime raises."""

    def run(self, outputs: Sequence[str], inputs: dict[str, Any]) -> list[Any]:
        """Return the named outputs, as arrays."""
        ...

    def get_inputs(self) -> Sequence[Any]:
        """Return what the graph takes, each with `name`, `type` and `shape`."""
        ...

    def get_outputs(self) -> Sequence[Any]:
        """Return what it gives."""
        ...


class InProcessEngine:
    """Implements `serving.engines.engine.Engine` over the graph named `graph` of a bundle."""

    def __init__(self, bundle: Bundle, *, threads_per_call: int = 1, graph: str = "dense") -> None:
        """Build the session and run one row of zeros through it.

        Raises:
            GraphRejected: the runtime refuses the graph, or its tensors are not those of the manifest.
        """
        self._model = f"{bundle.name}/{bundle.version}"
        self._outputs = bundle.outputs
        self._output_names = [spec.name for spec in bundle.outputs]
        if graph not in bundle.graphs:
            elsewhere = ": the model runs on another server" if bundle.manifest.get("upstream") else ""
            raise GraphRejected(self._model, f"the bundle has no graph named {graph}{elsewhere}")
        try:
            session = open_session(bundle.graphs[graph], threads_per_call)
        except Exception as error:  # the runtime's exceptions have no root of their own
            raise GraphRejected(self._model, str(error)) from error
        _check_tensors(self._model, session, bundle)
        self._session: Session | None = session
        try:
            # The first run plans memory; a graph that cannot run, or wants more inputs, is found now.
            self.infer({spec.name: np.zeros((1, *spec.shape[1:]), DATATYPES[spec.datatype]) for spec in bundle.inputs})
        except BackendFailed as error:
            raise GraphRejected(self._model, error.problem) from error

    def infer(self, inputs: Mapping[str, NDArray[Any]], /) -> Mapping[str, NDArray[Any]]:
        """Return the declared outputs; see `Engine`."""
        session = self._session  # a running call keeps the session alive past close()
        if session is None:
            raise EngineClosed(self._model)
        try:
            arrays = session.run(self._output_names, dict(inputs))
        except Exception as error:  # as above
            raise BackendFailed(self._model, str(error)) from error
        rows = len(next(iter(inputs.values())))
        for spec, array in zip(self._outputs, arrays, strict=True):
            if array.shape != (rows, *spec.shape[1:]):
                raise BackendFailed(self._model, f"output {spec.name} has shape {array.shape} for {rows} rows")
        return dict(zip(self._output_names, arrays, strict=True))

    def ready(self) -> bool:
        """True until closed: there is no backend apart from this process."""
        return self._session is not None

    def close(self) -> None:
        """Refuse further calls; the session goes when the last running call returns."""
        self._session = None


def outputs_of(graph: bytes, name: str) -> tuple[TensorSpec, ...]:
    """Return the outputs of a graph as a manifest would declare them. GraphRejected: `name` cannot be loaded."""
    try:
        session = open_session(graph, 1)
    except Exception as error:  # the runtime's exceptions have no root of their own
        raise GraphRejected(name, str(error)) from error
    datatypes = {kind: datatype for datatype, kind in _ORT_TYPES.items()}
    for node in session.get_outputs():
        if node.type not in datatypes:
            raise GraphRejected(name, f"output {node.name} is a {node.type}")
    return tuple(TensorSpec(node.name, datatypes[node.type], _shape(node.shape)) for node in session.get_outputs())


def open_session(graph: bytes, threads: int) -> Session:
    """Return a session that runs on the threads that call it. It raises what the runtime raises."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _LOG_FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    session: Session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session


def _check_tensors(model: str, session: Session, bundle: Bundle) -> None:
    for kind, declared, found in (
        ("input", bundle.inputs, session.get_inputs()),
        ("output", bundle.outputs, session.get_outputs()),
    ):
        types = {node.name: (node.type, _shape(node.shape)) for node in found}
        for spec in declared:
            if types.get(spec.name) != (_ORT_TYPES.get(spec.datatype), spec.shape):
                raise GraphRejected(model, f"{kind} {spec.name} is not in the graph as the manifest declares it")


def _shape(dimensions: list[int | str | None]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else _DYNAMIC for size in dimensions)


_ORT_TYPES = {  # BYTES is not among them: the runtime's strings are text
    "BOOL": "tensor(bool)",
    "UINT8": "tensor(uint8)",
    "UINT16": "tensor(uint16)",
    "UINT32": "tensor(uint32)",
    "UINT64": "tensor(uint64)",
    "INT8": "tensor(int8)",
    "INT32": "tensor(int32)",
    "INT64": "tensor(int64)",
    "FP16": "tensor(float16)",
    "FP32": "tensor(float)",
    "FP64": "tensor(double)",
}
