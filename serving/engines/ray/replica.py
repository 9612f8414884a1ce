"""What runs in a Ray Serve replica: one signed bundle, verified there before a byte of it is loaded.

`build` is the application builder of a plain Serve config file (`import_path: serving.engines.ray.replica:build`,
written by `stockade ray config`). The classes are plain Python; only what makes a deployment of them imports Ray, an
extra.

Rules:
- A replica loads only what a trusted key signed and what the deployment names by its digest. Otherwise it does not
  start, and says why: Serve shows the sentence in the application's status.
- A request names the bundle it means; another one is answered STALE, and nothing is run.
- The model's own failure is a reply, so it is never taken for a replica that died, and never tried again.
- Runs happen in threads. The event loop stays free for health checks, and `check_health` fails when a run takes longer
  than `hung_after_s`: then Serve replaces the replica.
- But for a run of a moment the way into a thread and back is a good part of the time: a small request to a model that
  was quick with the last one is run on the event loop while no thread is busy. Should it hang there, no health check is
  answered any more, and Serve replaces the replica for that.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from serving.bundles.bundle import Bundle, load_bundle
from serving.engines.inprocess import InProcessEngine
from serving.engines.ray.frames import DIGEST_BYTES, BadFrame, Verdict, pack_arrays, pack_reply, parse_request
from serving.engines.ray.settings import DEPLOYMENT, FORMAT
from serving.errors import BackendFailed, DeploymentStale, ReplicaRefused, ServingError

QUICK_S_MAX = 0.001
QUICK_BYTES_MAX = 16 * 1024
DEFAULTS: dict[str, Any] = {
    "max_ongoing_requests": 8,
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 5.0,
    "graceful_shutdown_wait_loop_s": 0.5,
    "graceful_shutdown_timeout_s": 20.0,
    "max_surge_percent": 25,  # at least one: the old ones serve until the new ones do, also where there is only one
    "max_constructor_retry_count": 3,  # a bundle that is refused stays refused
    "ray_actor_options": {"num_cpus": 1.0},
}


class NamedBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle's directory, as the replica's node sees it, and the SHA-256 of the manifest that it must have."""

    directory: str
    digest: str


class ReplicaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a deployment tells its replicas: the `args` of the application in a Serve config.

    `bundles` are keyed `name/version`. `models_max` is 0 when the replica has one bundle from its start to its end;
    otherwise it loads what is asked for, and holds that many at most.
    """

    format: int
    bundles: dict[str, NamedBundle]
    trusted_keys: list[str]
    hung_after_s: float
    threads: int = 8
    models_max: int = 0


def settings_of(args: Mapping[str, Any]) -> ReplicaSettings:
    """Read the `args` of an application. Raises ReplicaRefused."""
    try:
        settings = msgspec.convert(dict(args), ReplicaSettings)
    except msgspec.ValidationError as error:
        raise ReplicaRefused(f"the Serve config is not one of this release ({error}); {REWRITE}") from error
    if settings.format != FORMAT or not settings.bundles or (settings.models_max == 0 and len(settings.bundles) != 1):
        raise ReplicaRefused(f"the Serve config is not one of this release (format {settings.format}); {REWRITE}")
    return settings


REWRITE = "write it anew with `stockade ray config`"


def load_named(named: NamedBundle, trusted_keys: list[str]) -> Bundle:
    """Verify and load the bundle that is named. Raises ReplicaRefused, with a sentence for who deployed it."""
    directory = Path(named.directory)
    try:
        bundle = load_bundle(directory, [Path(key) for key in trusted_keys])
        if bundle.digest != named.digest:
            raise DeploymentStale(f"{bundle.name}/{bundle.version}", named.digest, bundle.digest)
    except ServingError as error:
        # Without the cause: it would be pickled into Serve's status, and some of ours cannot be.
        raise ReplicaRefused(f"{directory}: {error}") from None
    return bundle


class Model:
    """One loaded bundle, answering requests in the calling thread. `took_s` is how long the last small one took."""

    def __init__(self, bundle: Bundle) -> None:
        self.took_s = math.inf
        self.digest = bytes.fromhex(bundle.digest)
        try:
            self._engine = InProcessEngine(bundle)
        except ServingError as error:
            raise ReplicaRefused(str(error)) from None

    def answer(self, body: bytes) -> bytes:
        """Return the reply to a request."""
        try:
            digest, inputs = parse_request(body)
            if digest != self.digest:
                return pack_reply(self.digest, Verdict.STALE)
            return pack_reply(self.digest, Verdict.DONE, pack_arrays(self._engine.infer(inputs)))
        except (BackendFailed, BadFrame) as error:
            return pack_reply(self.digest, Verdict.FAILED, str(error).encode())


class Runs:
    """Threads that run a model, and which run has taken how long."""

    def __init__(self, threads: int, hung_after_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._pool = ThreadPoolExecutor(threads, "run")
        self._hung_after_s = hung_after_s
        self._clock_s = clock_s
        self._numbers = itertools.count()
        self._began_s: dict[int, float] = {}

    async def answer(self, model: Model, body: bytes) -> bytes:
        """Run a request in a thread, or at once when it is likely to be quick and no other runs."""
        if len(body) <= QUICK_BYTES_MAX and model.took_s <= QUICK_S_MAX and not self._began_s:
            return self._run(model, body)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, model, body)

    def _run(self, model: Model, body: bytes) -> bytes:
        number = next(self._numbers)
        self._began_s[number] = began_s = self._clock_s()
        try:
            return model.answer(body)
        finally:
            del self._began_s[number]
            if len(body) <= QUICK_BYTES_MAX:
                model.took_s = self._clock_s() - began_s

    def require_progress(self) -> None:
        """Raise when a run has taken too long; a queue of them behind busy threads is no fault of the replica."""
        began_s = min(list(self._began_s.values()), default=None)
        if began_s is not None and self._clock_s() - began_s > self._hung_after_s:
            raise RuntimeError(f"a run takes longer than {self._hung_after_s:g} s")


class Replica:
    """A replica of one model."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        settings = settings_of(args)
        (named,) = settings.bundles.values()
        self._model = Model(load_named(named, settings.trusted_keys))
        self._runs = Runs(settings.threads, settings.hung_after_s)

    async def infer(self, body: bytes) -> bytes:
        """Answer a request (`serving.engines.ray.frames`)."""
        return await self._runs.answer(self._model, body)

    async def digest(self) -> str:
        """Return the SHA-256, hex, of the bundle that this replica holds."""
        return self._model.digest.hex()

    async def check_health(self) -> None:
        """Raise when a run hangs; Serve calls it."""
        self._runs.require_progress()


class SharedReplica:
    """A replica of many models, of which it holds those that were asked for last (`models_max`)."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        self._settings = settings_of(args)
        self._runs = Runs(self._settings.threads, self._settings.hung_after_s)

    async def infer(self, body: bytes) -> bytes:
        """Answer a request for the model that Serve routed here."""
        from ray import serve

        try:
            model = await self.load(serve.get_multiplexed_model_id())
        except ReplicaRefused as error:
            return pack_reply(bytes(DIGEST_BYTES), Verdict.REFUSED, str(error).encode())
        return await self._runs.answer(model, body)

    async def load(self, model: str) -> Model:
        """Verify and load a model, `name/version`; `build` lets Serve remember and forget what this returns."""
        named = self._settings.bundles.get(model)
        if named is None:
            raise ReplicaRefused(f"{model} is not in the Serve config; {REWRITE}")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, lambda: Model(load_named(named, self._settings.trusted_keys)))

    async def digest(self) -> str:
        """Return nothing: there is no one bundle. Each reply says whose it is."""
        return ""

    async def check_health(self) -> None:
        """Raise when a run hangs; Serve calls it."""
        self._runs.require_progress()


def deployed(args: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Return the Serve application with these options of its deployment. Raises ReplicaRefused."""
    from ray import serve

    settings = settings_of(args)
    kind: type[Any] = Replica
    if settings.models_max:
        keep = serve.multiplexed(max_num_models_per_replica=settings.models_max)
        kind = type("SharedReplica", (SharedReplica,), {"load": keep(SharedReplica.load)})
    made: Any = serve.deployment(kind, name=DEPLOYMENT, **(DEFAULTS | dict(options)))
    return made.bind(dict(args))


def build(args: dict[str, Any]) -> Any:
    """Return the application for a Serve config file; options of the deployment stand in that file."""
    return deployed(args, {})
