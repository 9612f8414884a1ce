"""An engine whose model runs on other servers: Triton, MLServer, KServe, whatever speaks the Open Inference Protocol.

A batch becomes as many calls as `rows_max` asks for, one after the other in the thread that runs the batch. A server is
not trusted: its reply is held to the manifest (`gateway.codec.forward`), and what does not fit is BackendFailed, as is
whatever the server refuses. Outputs of the bundle's encoder, where it has one, are computed here and are not asked for,
so that what screens read does not come from whom they watch.

The only engine outside of `serving`, because gRPC is the gateway's. Connections, retries and time are `dial`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gateway import codec
from gateway.codec.request import CodecLimits
from gateway.config.engine import OipModel
from gateway.errors import MalformedMessage, RequestTooLarge, TensorInvalid
from gateway.models.dial import Servers
from serving.bundles.manifest import DATATYPES, ENCODER
from serving.engines.inprocess import InProcessEngine
from serving.errors import BackendFailed, EngineClosed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gateway.config.engine import Oip
    from serving.bundles.bundle import Bundle

Tensors = dict[str, "NDArray[Any]"]


class UpstreamEngine:
    """Implements `serving.engines.engine.Engine` for one bundle."""

    def __init__(self, bundle: Bundle, oip: Oip) -> None:
        """Open the connections; a server that is away now may come later.

        Raises:
            GraphRejected: the encoder cannot be run.
            OSError: a file that the settings name cannot be read.
        """
        self._model = f"{bundle.name}/{bundle.version}"
        self._inputs, self._outputs = bundle.inputs, bundle.outputs
        self._there = there(bundle, oip)
        self._rows_max = rows_max(bundle, oip)
        self._limits = CodecLimits(message_bytes_max=oip.reply_bytes_max)
        own = frozenset(bundle.manifest["roles"].get(ENCODER, ()) if ENCODER in bundle.graphs else ())
        encoded = tuple(spec for spec in bundle.outputs if spec.name in own)
        self._asked = tuple(spec for spec in bundle.outputs if spec.name not in own)
        self._encoder = InProcessEngine(replace(bundle, outputs=encoded), graph=ENCODER) if encoded else None
        self._lock = threading.Lock()
        self._running = 0
        self._closed = False
        self._servers = Servers(oip, self._model, self._there.name, self._there.version)

    def infer(self, inputs: Mapping[str, NDArray[Any]], /) -> Mapping[str, NDArray[Any]]:
        """Return the declared outputs; see `Engine`. Raises also BackendUnavailable and BackendTimedOut."""
        with self._call():
            rows, ends_s = self._checked_rows(inputs), self._servers.deadline_s()
            starts = range(0, rows, self._rows_max)
            parts = [self._ask(inputs, slice(start, start + self._rows_max), ends_s) for start in starts]
            outputs: Tensors = {
                spec.name: np.concatenate([part[spec.name] for part in parts])  # a copy, also of a single part
                for spec in self._asked
            }
            if self._encoder is not None:
                outputs |= self._encoder.infer(inputs)
        return {spec.name: outputs[spec.name] for spec in self._outputs}

    def ready(self) -> bool:
        """True unless closed, or every server is known to be away or not ready for the model."""
        return not self._closed and self._servers.ready()

    def close(self) -> None:
        """Refuse further calls; the last running one closes the connections."""
        with self._lock:
            first, self._closed = not self._closed, True
            last = first and not self._running
        if last:
            self._release()

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise EngineClosed(self._model)
            self._running += 1
        try:
            yield
        finally:
            if self._left_last():
                self._release()

    def _left_last(self) -> bool:
        """Count a call out; say whether it was the last one of a closed engine."""
        with self._lock:
            self._running -= 1
            return self._closed and not self._running

    def _release(self) -> None:
        self._servers.close()
        if self._encoder is not None:
            self._encoder.close()

    def _checked_rows(self, inputs: Mapping[str, NDArray[Any]]) -> int:
        if inputs.keys() != {spec.name for spec in self._inputs}:
            raise BackendFailed(self._model, "the inputs are not the declared ones")
        rows = len(next(iter(inputs.values())))
        for spec in self._inputs:
            array = inputs[spec.name]
            if array.shape != (rows, *spec.shape[1:]) or array.dtype != DATATYPES[spec.datatype] or rows == 0:
                raise BackendFailed(self._model, f"input {spec.name} is not as declared")
        return rows

    def _ask(self, inputs: Mapping[str, NDArray[Any]], span: slice, ends_s: float) -> Tensors:
        """Return what the servers answer to some of the rows, held to the manifest."""
        part = {spec.name: inputs[spec.name][span] for spec in self._inputs}
        name, version = self._there.name, self._there.version
        request = codec.write_request(name, version, part, self._inputs, self._asked)
        reply = self._servers.infer(request, ends_s)
        rows = len(next(iter(part.values())))
        try:
            return codec.read_reply(reply, (name, version), self._asked, rows, self._limits)
        except TensorInvalid as misfit:
            remark = f"the reply's {misfit.field} {misfit.problem}"
            raise BackendFailed(self._model, remark, remark=remark) from misfit
        except (MalformedMessage, RequestTooLarge) as misfit:
            remark = "the reply is not a message within the limits"
            raise BackendFailed(self._model, remark, remark=remark) from misfit


def rows_max(bundle: Bundle, oip: Oip) -> int:
    """Return how many rows one call may carry: as the configuration says, and no more than the model takes there."""
    known = (bundle.manifest.get("upstream") or {}).get("rows_max", 0)
    return min(oip.rows_max, known or oip.rows_max)


def required(oip: Oip | None) -> Oip:
    """Return the settings, which `gateway.config.rules` has seen to be there."""
    assert oip is not None, "engine.kind is oip"
    return oip


def there(bundle: Bundle, oip: Oip) -> OipModel:
    """Return what the model is called on the servers: as the configuration says, or the bundle, or as it is here."""
    if bundle.name in oip.models:
        return oip.models[bundle.name]
    upstream = bundle.manifest.get("upstream") or {"name": bundle.name, "version": bundle.version}
    return OipModel(name=upstream["name"], version=upstream.get("version", ""))
