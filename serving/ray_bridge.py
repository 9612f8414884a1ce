"""The Ray driver of a gateway worker, in a process of its own: `python -m serving.ray_bridge serve FD SETTINGS`.

Why a process: Ray ends a driver whose node dies, brings threads and memory of its own, and unpickles what the cluster
sends. The worker faces the network, so it speaks with this process in the frames of `serving.ray_frames` and never
imports Ray.

Rules:
- One call of a replica for each INFER frame, many at once. A call is repeated once, and only when its replica died or
  could not be reached: a model is a pure function, so what the dead one may have done does no harm.
- A model's failure, and a call that is late, are not repeated.
- Serve's controller is one process for all gateways, so it is asked seldom while nothing changes: after 0.5 s, then
  1, 2, 4 and at last 5. It is asked again within a second when a call is lost, late or takes long, and often while a
  replica is missing.
- When the worker is gone (its end of the socket closes), or the cluster is (Serve does not answer three times), this
  process ends at once. The worker starts it again.

`deploy` and `status` are the two verbs of `stockade ray` that need Ray: JSON in, JSON lines out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import msgspec
import uvloop

from serving.errors import ReplicaRefused
from serving.ray_frames import (
    BODY_BYTES_MAX,
    HEADER_BYTES,
    ApplicationStatus,
    BadFrame,
    Kind,
    Status,
    pack_frame,
    parse_header,
)
from serving.ray_settings import DEPLOYMENT, DeployPlan, RaySettings

__all__ = ["main"]

ATTEMPTS = 2
LOOK_MIN_S = 0.5
LOOK_MAX_S = 5.0
BEAT_S = 1.0
SLOW_CALL_S = 1.0
LOOK_TIMEOUT_S = 5.0
LOOKS_FAILED_MAX = 3
DIGEST_EVERY_LOOKS = 10
DIGEST_TIMEOUT_S = 2.0
STATUS_TIMEOUT_S = 20.0  # of `status`: somebody waits, and would rather know late than not
DEPLOY_POLL_S = 0.5
EX_LOST = 75
EX_UNUSABLE = 78

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",  # calls are made on our loop: a second one only adds hand-overs
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_gcs_rpc_server_connect_timeout_s": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
"""Read by Ray when it is imported, so set before. What stands in the environment already wins."""


class Bridge:
    """Takes requests from the worker and brings back what replicas answer."""

    def __init__(
        self,
        settings: RaySettings,
        writer: asyncio.StreamWriter,
        look_timeout_s: float = LOOK_TIMEOUT_S,
        digest_timeout_s: float = DIGEST_TIMEOUT_S,
    ) -> None:
        self._settings = settings
        self._writer = writer
        self._look_timeout_s = look_timeout_s
        self._digest_timeout_s = digest_timeout_s
        self._handles: dict[tuple[str, str], Any] = {}
        self._running: dict[asyncio.Task[None], float] = {}  # when each call began, the oldest first
        self._trouble = asyncio.Event()  # a call was lost or late since Serve was asked
        self._digests: dict[str, tuple[float, str]] = {}

    async def run(self, reader: asyncio.StreamReader) -> NoReturn:
        """Serve until the worker or the cluster is gone."""
        watch = asyncio.create_task(self._watch())
        try:
            while True:
                header = parse_header(await reader.readexactly(HEADER_BYTES))
                target = (await reader.readexactly(header.target_bytes)).decode()
                body = await reader.readexactly(header.body_bytes)
                task = asyncio.create_task(self._answer(header.call, target, body))
                self._running[task] = asyncio.get_running_loop().time()
                task.add_done_callback(self._running.pop)
        except (asyncio.IncompleteReadError, ConnectionError, BadFrame, UnicodeDecodeError):
            watch.cancel()
            leave(0)

    async def _answer(self, call: int, target: str, body: bytes) -> None:
        application, _, model = target.partition("|")
        kind, reply = await self._ask(application, model, body)
        if kind in {Kind.LOST, Kind.LATE}:
            self._trouble.set()
        if len(reply) > BODY_BYTES_MAX:
            kind, reply = Kind.FAULT, f"the reply has {len(reply)} bytes, {BODY_BYTES_MAX} are allowed".encode()
        self._send(kind, call, reply)

    async def _ask(self, application: str, model: str, body: bytes) -> tuple[Kind, bytes]:
        """Return what came of a request, asked at one replica and, if that was lost, at another."""
        from ray.exceptions import RayActorError, RayTaskError
        from ray.serve.exceptions import ReplicaUnavailableError

        deadline_s = asyncio.get_running_loop().time() + self._settings.call_timeout_ms / 1000
        problem = ""
        for _ in range(ATTEMPTS):
            response = None
            try:
                async with asyncio.timeout_at(deadline_s):
                    response = self._infer(application, model).remote(body)
                    return Kind.ANSWER, await response
            except TimeoutError:
                if response is not None:
                    response.cancel()
                return Kind.LATE, b""
            except (RayActorError, ReplicaUnavailableError) as error:
                problem = f"{type(error).__name__}: {error}"
            except RayTaskError as error:
                return Kind.FAULT, str(error).encode(errors="replace")
            except Exception as error:  # noqa: BLE001  Ray and gRPC have many, and none of them is an answer
                problem = f"{type(error).__name__}: {error}"
                break
        return Kind.LOST, problem.encode(errors="replace")

    def _infer(self, application: str, model: str) -> Any:
        """Return what calls a replica of the application."""
        from ray import serve

        found = self._handles.get((application, model))
        if found is None:
            handle: Any = serve.get_deployment_handle(DEPLOYMENT, application, _check_exists=False)
            if not handle.is_initialized:  # Serve hands out one for all models of an application
                handle._init(_prefer_local_routing=self._settings.prefer_local)  # noqa: SLF001  options() is deprecated
            # By value over gRPC, not by reference: 1.6 ms a call instead of 4, and nothing passes through the object
            # store, full or not. Bytes need none of what cloudpickle, the default, does more slowly than pickle.
            found = handle.options(
                method_name="infer",
                multiplexed_model_id=model,
                _by_reference=False,
                request_serialization="pickle",
                response_serialization="pickle",
            )
            self._handles[application, model] = found
        return found

    def _send(self, kind: Kind, call: int, body: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(pack_frame(kind, call, body))

    async def _watch(self) -> None:
        """Tell the worker what Serve says, and leave when it says nothing any more."""
        failed, looks, pause_s, said = 0, 0, LOOK_MIN_S, b""
        while True:
            try:
                look = asyncio.create_task(self._look(with_digests=looks % DIGEST_EVERY_LOOKS == 0))
                while not (await asyncio.wait({look}, timeout=BEAT_S))[0]:
                    if said:  # the cluster is slow, this process is not: a silent one is ended
                        self._send(Kind.STATUS, 0, said)
                seen = look.result()
            except Exception as error:  # noqa: BLE001  whatever it is: the cluster does not answer
                failed, pause_s = failed + 1, LOOK_MIN_S
                if failed >= LOOKS_FAILED_MAX:
                    self._send(Kind.STATUS, 0, msgspec.json.encode(Status(f"the cluster does not answer: {error}")))
                    await asyncio.wait_for(self._writer.drain(), LOOK_TIMEOUT_S)
                    leave(EX_LOST)
            else:
                failed = 0
                before, said = said, msgspec.json.encode(Status(applications=seen))
                self._send(Kind.STATUS, 0, said)
                pause_s = min(2 * pause_s, LOOK_MAX_S) if said == before and is_whole(seen) else LOOK_MIN_S
            looks += 1
            await self._rest(pause_s, said)

    async def _rest(self, pause_s: float, said: bytes) -> None:
        """Wait for the next look, which calls that are lost, late or slow bring nearer. The worker hears the last."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + pause_s
        await asyncio.sleep(min(pause_s, LOOK_MIN_S))
        while loop.time() < ends_s and not self._trouble.is_set() and not self._is_slow(loop.time()):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._trouble.wait(), min(BEAT_S, ends_s - loop.time()))
            if said:
                self._send(Kind.STATUS, 0, said)
        self._trouble.clear()

    def _is_slow(self, now_s: float) -> bool:
        """Say whether a call is taking long."""
        return now_s - next(iter(self._running.values()), now_s) > SLOW_CALL_S

    async def _look(self, *, with_digests: bool) -> dict[str, ApplicationStatus]:
        """Return the applications of our namespace. Raises when Serve does not answer."""
        try:
            found = await asyncio.wait_for(asyncio.to_thread(deployed_applications), self._look_timeout_s)
        except TimeoutError:
            raise TimeoutError(f"Serve's controller said nothing for {self._look_timeout_s:g} s") from None
        seen: dict[str, ApplicationStatus] = {}
        for name, application in found.items():
            if not name.startswith(f"{self._settings.namespace}-"):
                continue
            state = state_of(application)
            if state.running:
                digest = await self._digest(name, application["last_deployed_time_s"], again=with_digests)
                state = msgspec.structs.replace(state, digest=digest)
            seen[name] = state
        return seen

    async def _digest(self, application: str, deployed_s: float, *, again: bool) -> str:
        """Return which bundle a replica of the application holds, asked when it was deployed anew, and now and then."""
        known = self._digests.get(application)
        if known is not None and known[0] == deployed_s and not again:
            return known[1]
        try:
            handle = self._infer(application, "").options(method_name="digest")
            digest = str(await asyncio.wait_for(handle.remote(), self._digest_timeout_s))
        except Exception:  # noqa: BLE001  a replica may be on its way out; the next look asks again
            return known[1] if known is not None else ""
        self._digests[application] = (deployed_s, digest)
        return digest


def deployed_applications() -> Mapping[str, Any]:
    """Return every application as `serve.status` has it, and how many replicas are wanted, which that leaves out.

    Plain dicts in the form of Serve's REST interface (ray.serve.schema.ApplicationDetails). To check them against it,
    as `serve.status` does, takes this process twenty times as long as to ask. Raises when Serve does not answer.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:  # Serve has not been started yet
        return {}
    applications: Mapping[str, Any] = client.get_serve_details()["applications"]
    return applications


def is_whole(seen: Mapping[str, ApplicationStatus]) -> bool:
    """Say whether there is something, and no replica is missing: then little is about to change."""
    return bool(seen) and all(each.running >= max(each.wanted, 1) for each in seen.values())


def state_of(application: Mapping[str, Any]) -> ApplicationStatus:
    """Return what Serve's details of an application come down to."""
    deployments = application["deployments"].values()
    running = sum(replica["state"] == "RUNNING" for each in deployments for replica in each["replicas"])
    wanted = sum(each["target_num_replicas"] for each in deployments)
    problems = [application["message"], *(each["message"] for each in deployments)]
    message = " ".join(text for text in problems if text)
    return ApplicationStatus(str(application["status"].value), running, message[-2000:], wanted=wanted)


def leave(code: int) -> NoReturn:
    """End the process now: Ray's own way out may wait for a cluster that is gone."""
    os._exit(code)


def connect(address: str) -> None:
    """Become a driver of the cluster. Raises what Ray raises."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    see_nodes_beside(address)
    ray.init(address=address, log_to_driver=False, configure_logging=False, namespace="serve")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)


def see_nodes_beside(address: str) -> None:
    """Let Ray find a node that has our network and not our processes: in a container beside this one.

    Ray looks for a raylet among the processes that it sees, and knows no other way (2.60). Where it sees none, the
    cluster is asked which of its nodes have an address of this machine.
    """
    from ray._private import services

    compiled: Any = import_module("ray._raylet")  # without types
    seen: Any = services.find_node_ids

    def seen_or_beside() -> set[str]:
        return seen() or {
            node_id.hex()
            for node_id, node in compiled.GcsClient(address=address).get_all_node_info(timeout=LOOK_TIMEOUT_S).items()
            if is_of_this_machine(node.node_manager_address)
        }

    services.find_node_ids = seen_or_beside


def is_of_this_machine(address: str) -> bool:
    """Say whether an IP address is one that a socket here can have."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as trial:
        try:
            trial.bind((address, 0))
        except OSError:
            return False
        return True


async def serve_worker(settings: RaySettings, sock: socket.socket) -> NoReturn:
    """Serve the worker at the other end of the socket."""
    reader, writer = await asyncio.open_connection(sock=sock)
    await Bridge(settings, writer).run(reader)


def run_serve(descriptor: int, settings: RaySettings) -> NoReturn:
    """The verb `serve`: connect, then answer; what stands in the way goes to the worker as its status."""
    sock = socket.socket(fileno=descriptor)
    try:
        connect(settings.address)
    except Exception as error:  # noqa: BLE001  also that Ray is not installed
        status = Status(f"cannot connect to Ray at {settings.address}: {type(error).__name__}: {error}")
        sock.sendall(pack_frame(Kind.STATUS, 0, msgspec.json.encode(status)))
        leave(EX_LOST)
    uvloop.run(serve_worker(settings, sock))


def run_deploy(plan: DeployPlan, timeout_s: float) -> int:
    """The verb `deploy`: deploy or update the applications, one line a change, until all run or one cannot."""
    connect(plan.address)
    from ray import serve
    from ray.serve.api import RunTarget

    from serving.ray_replica import deployed

    serve.start(proxy_location="Disabled")  # without effect where Serve runs already
    targets = [
        RunTarget(target=deployed(each.args, each.options), name=each.name, route_prefix=None)
        for each in plan.applications
    ]
    serve.run_many(targets, wait_for_ingress_deployment_creation=True, wait_for_applications_running=False)
    names = {each.name for each in plan.applications}
    code = follow(lambda: {name: state_of(each) for name, each in deployed_applications().items()}, names, timeout_s)
    if code == 0 and plan.prune:  # only now: what they replace answers until they do
        for name in set(serve.status().applications) - names:
            if name.startswith(f"{plan.prune}-"):
                serve.delete(name)
                say(application=name, state="DELETED", running=0, message="")
    return code


def follow(look: Callable[[], dict[str, ApplicationStatus]], names: set[str], timeout_s: float) -> int:
    """Print a line for each change until every one of `names` runs (0), or one cannot or the time is up (1)."""
    said: dict[str, ApplicationStatus] = {}
    give_up_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_s:
        seen = {name: each for name, each in look().items() if name in names}
        for name, each in seen.items():
            if said.get(name) != each:
                say(application=name, state=each.state, running=each.running, message=each.message)
        said = seen
        states = {each.state for each in seen.values()}
        if "DEPLOY_FAILED" in states:
            return 1
        if len(seen) == len(names) and states == {"RUNNING"}:
            return 0
        time.sleep(DEPLOY_POLL_S)
    say(problem=f"not all run after {timeout_s:g} s")
    return 1


def run_status(settings: RaySettings) -> int:
    """The verb `status`: one line for each application of the namespace, with its replicas and their bundle."""
    connect(settings.address)

    async def look() -> dict[str, ApplicationStatus]:
        # It says nothing to anybody, so it has no writer.
        bridge = Bridge(settings, None, STATUS_TIMEOUT_S, STATUS_TIMEOUT_S)  # type: ignore[arg-type]
        return await bridge._look(with_digests=True)  # noqa: SLF001  the same module

    for name, each in asyncio.run(look()).items():
        say(application=name, **msgspec.structs.asdict(each))
    return 0


def say(**facts: Any) -> None:
    """Print one JSON line."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Entry point of the process."""
    code = EX_UNUSABLE
    try:
        match arguments:
            case ["serve", descriptor, settings]:
                run_serve(int(descriptor), msgspec.json.decode(settings, type=RaySettings))
            case ["deploy", timeout_s]:
                plan = msgspec.json.decode(sys.stdin.buffer.read(), type=DeployPlan)
                code = run_deploy(plan, float(timeout_s))
            case ["status"]:
                code = run_status(msgspec.json.decode(sys.stdin.buffer.read(), type=RaySettings))
    except ReplicaRefused as error:
        say(problem=str(error))
    except Exception as error:  # noqa: BLE001  Ray's errors have no root of their own
        say(problem=f"{type(error).__name__}: {error}")
        code = EX_LOST
    leave(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
