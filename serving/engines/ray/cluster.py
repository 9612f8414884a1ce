"""A Ray cluster as its driver sees it: connect, call replicas, look at Serve, deploy. For processes of their own.

Ray ends a driver whose node dies, brings threads and memory of its own, and unpickles what the cluster sends. So only
`serving.engines.ray.bridge` and `serving.engines.ray.verbs` import this module: never the gateway, which faces the
network.

Ray is imported by `connect`, which sets its environment first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

import msgspec

from serving.engines.ray.frames import ApplicationStatus, Kind
from serving.engines.ray.settings import DEPLOYMENT, Application, RaySettings

ATTEMPTS = 2
LOOK_TIMEOUT_S = 5.0
DIGEST_TIMEOUT_S = 2.0
MESSAGE_CHARACTERS_MAX = 2000

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",  # calls are made on our loop: a second one only adds hand-overs
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_gcs_rpc_server_connect_timeout_s": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
"""Read by Ray when it is imported, so set before. What stands in the environment already wins."""


class Cluster:
    """Serve's applications of one namespace: calls of their replicas, and how they are. For one event loop."""

    def __init__(
        self,
        settings: RaySettings,
        look_timeout_s: float = LOOK_TIMEOUT_S,
        digest_timeout_s: float = DIGEST_TIMEOUT_S,
    ) -> None:
        self._settings = settings
        self._look_timeout_s = look_timeout_s
        self._digest_timeout_s = digest_timeout_s
        self._handles: dict[tuple[str, str], Any] = {}
        self._digests: dict[str, tuple[float, str]] = {}

    async def ask(self, application: str, model: str, body: bytes) -> tuple[Kind, bytes]:
        """Return what came of a request, asked at one replica and, if that was lost, at another.

        The bytes are those of a frame of this kind: ANSWER, LOST, LATE or FAULT (`serving.engines.ray.frames`).
        """
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

    async def look(self, *, with_digests: bool = True) -> dict[str, ApplicationStatus]:
        """Return the applications of our namespace, with digests asked anew or as they were known.

        Raises TimeoutError, or what Ray raises, when Serve does not answer.
        """
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


def state_of(application: Mapping[str, Any]) -> ApplicationStatus:
    """Return what Serve's details of an application come down to."""
    deployments = application["deployments"].values()
    running = sum(replica["state"] == "RUNNING" for each in deployments for replica in each["replicas"])
    wanted = sum(each["target_num_replicas"] for each in deployments)
    problems = [application["message"], *(each["message"] for each in deployments)]
    message = " ".join(text for text in problems if text)[-MESSAGE_CHARACTERS_MAX:]
    return ApplicationStatus(str(application["status"].value), running, message, wanted=wanted)


def deploy_all(applications: Sequence[Application]) -> None:
    """Start Serve where it does not run, and have it deploy or update the applications. It goes on after this returns.

    Raises ReplicaRefused for arguments that no replica takes, and what Ray raises.
    """
    from ray import serve
    from ray.serve.api import RunTarget

    from serving.engines.ray.replica import deployed

    serve.start(proxy_location="Disabled")  # without effect where Serve runs already
    targets = [
        RunTarget(target=deployed(each.args, each.options), name=each.name, route_prefix=None) for each in applications
    ]
    serve.run_many(targets, wait_for_ingress_deployment_creation=True, wait_for_applications_running=False)


def delete_others(namespace: str, names: set[str]) -> list[str]:
    """Delete the namespace's applications that are not among `names`, and return which those were."""
    from ray import serve

    others = [name for name in set(serve.status().applications) - names if name.startswith(f"{namespace}-")]
    for name in others:
        serve.delete(name)
    return others


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
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.bind((address, 0))
    except OSError:
        return False
    return True


def leave(code: int) -> NoReturn:
    """End the process now: Ray's own way out may wait for a cluster that is gone."""
    os._exit(code)
