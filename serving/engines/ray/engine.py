"""The engine whose model runs in Ray Serve replicas. It imports no Ray: `serving.engines.ray.bridge` does, in its own
process.

A batch is one call of one replica. The bundle that the gateway verified is named in the call by its digest, and the
reply is checked against its manifest, so an answer is that bundle's or there is none.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import DATATYPES
from serving.engines.ray.frames import (
    ApplicationStatus,
    BadFrame,
    Kind,
    Verdict,
    pack_request,
    parse_reply,
    unpack_arrays,
)
from serving.engines.ray.link import borrow, give_back
from serving.engines.ray.settings import RaySettings, target_of
from serving.errors import BackendFailed, BackendUnavailable, DeploymentStale, EngineClosed

START_TIMEOUT_S = 30.0


class Replicas(NamedTuple):
    """The replicas of a Serve application: so many are wanted, and so many run."""

    application: str
    wanted: int
    running: int


class RayEngine:
    """Implements `serving.engines.engine.Engine` over the application that `stockade ray deploy` made of the same
    bundle.

    `ready` is false while no replica runs, or while the replicas hold another bundle. While no replica runs, `infer`
    fails at once instead of after the call's timeout.
    """

    def __init__(self, bundle: Bundle, settings: RaySettings, *, start_timeout_s: float = START_TIMEOUT_S) -> None:
        """Connect, and wait for a replica for at most `start_timeout_s`; without one the engine is there and not ready.

        Raises:
            DeploymentStale: the replicas hold another bundle of this name and version.
        """
        self._model = f"{bundle.name}/{bundle.version}"
        self._digest = bundle.digest
        self._digest_bytes = bytes.fromhex(bundle.digest)
        self._outputs = bundle.outputs
        self._application, model = target_of(settings, bundle.name, bundle.version)
        self._target = f"{self._application}|{model}"
        self._link = borrow(settings)
        self._lock = threading.Lock()
        self._running = 0
        self._closed = False
        self._wanted = settings.replicas_min
        self._link.wait_for(self._application, start_timeout_s, named=not model)  # one of several models: never known
        if (found := self._application_status()) is not None and found.digest not in {"", self._digest}:
            self.close()
            raise DeploymentStale(self._model, self._digest, found.digest)

    def infer(self, inputs: Mapping[str, NDArray[Any]], /) -> Mapping[str, NDArray[Any]]:
        """Return the declared outputs; see `Engine`. Also raises BackendUnavailable and BackendTimedOut."""
        self._enter()
        try:
            self._require_replica()
            try:
                body = pack_request(self._digest_bytes, inputs)
            except Exception as error:  # safetensors has many
                raise BackendFailed(self._model, f"the inputs cannot be sent ({error})") from error
            kind, reply = self._link.ask(self._model, self._target, body)
            if kind is Kind.FAULT:
                raise BackendFailed(self._model, reply.decode(errors="replace"))
            return self._outputs_of(reply, inputs)
        finally:
            self._leave()

    def ready(self) -> bool:
        """True while a replica runs that holds this bundle, as far as is known."""
        found = self._application_status()
        return not self._closed and found is not None and found.running > 0 and found.digest in {"", self._digest}

    def replicas(self) -> Replicas:
        """Return what Serve said last. With nothing heard of the application none runs; what was wanted still is."""
        found = self._application_status()
        if found is not None:
            self._wanted = found.wanted
        return Replicas(self._application, self._wanted, 0 if found is None else found.running)

    def close(self) -> None:
        """Refuse further calls; the bridge goes when the last running call returns."""
        with self._lock:
            last = not self._closed and self._running == 0
            self._closed = True
        if last:
            give_back(self._link)

    def _enter(self) -> None:
        with self._lock:
            if self._closed:
                raise EngineClosed(self._model)
            self._running += 1

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
            last = self._closed and self._running == 0
        if last:
            give_back(self._link)

    def _require_replica(self) -> None:
        status, application = self._link.status, self._application_status()
        if application is not None and application.running > 0:
            return
        message = f"{application.state} {application.message}" if application is not None else "is not deployed"
        remark = "there is no connection to Ray" if status.problem else f"no replica of {self._application} runs"
        problem = status.problem or f"{self._application}: {message}"  # Ray's words may quote anything
        raise BackendUnavailable(self._model, problem, remark=remark)

    def _application_status(self) -> ApplicationStatus | None:
        """Return what Serve said last of the application; None: nothing."""
        return self._link.status.applications.get(self._application)

    def _outputs_of(self, reply: bytes, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Return the outputs in a reply, which must be this bundle's and what its manifest declares."""
        try:
            digest, verdict, rest = parse_reply(reply)
            if verdict is Verdict.REFUSED:
                raise BackendUnavailable(self._model, rest.decode(errors="replace"))
            if digest != self._digest_bytes:
                raise DeploymentStale(self._model, self._digest, digest.hex())
            if verdict is not Verdict.DONE:
                raise BackendFailed(self._model, rest.decode(errors="replace"))
            arrays = unpack_arrays(rest)
        except BadFrame as error:
            raise BackendFailed(self._model, f"the reply {error}") from error
        rows = len(next(iter(inputs.values())))
        for spec in self._outputs:
            array = arrays.get(spec.name)
            if array is None or array.shape != (rows, *spec.shape[1:]) or array.dtype != DATATYPES[spec.datatype]:
                raise BackendFailed(self._model, f"the reply's {spec.name} is not what the manifest declares")
        return {spec.name: arrays[spec.name] for spec in self._outputs}
