"""A gateway worker's process: `python -m gateway.host.worker CONFIG POLICY NUMBER ADDRESS PROFILE`.

It speaks with its supervisor in JSON lines. Commands on stdin: `prepare` (load a policy and models, say whether they
would do), `commit` (use the prepared ones), `forget` (drop them), `move` (canaries stand there now), `answer` (to what
it asked), `isolate` (callers are kept out, or let in again: done at once, also while a policy is being prepared),
`reached` (how far the log is known to be elsewhere: taken in at once, too), `forgive` (the evidence against accounts is
forgotten).
Events on stdout: `ready`, `prepared`, `rejected`, `committed`, `moved`, `isolated`, `asked` (a client wants a model
loaded or unloaded), and `health` whenever it begins or ceases to be able to serve.
When stdin closes, the supervisor is gone and the worker drains as on SIGTERM: nobody would restart its recorder.

Exit codes: 0 after a drain. When it could not start, with the reason in its log and in its last event, `failed`:
75 (EX_TEMPFAIL) for what may pass (recorder away, the policy's key being replaced), 78 (EX_CONFIG) for the rest.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from gateway.auth.isolation import ISOLATIONS, read_isolations
from gateway.config.document import FileRejected
from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.edge.health import serving
from gateway.edge.methods import data_methods
from gateway.edge.server import ListenFailed, drain, listen, open_server
from gateway.edge.service import Service
from gateway.host.app import open_app
from gateway.host.shared_limits import shares_limits
from gateway.models.compile_release import Standing
from gateway.models.host_link import HostLink
from gateway.models.model_set import MODELS, read_models
from gateway.models.models import load_listed
from gateway.policy.load import load_policy
from gateway.policy.signature import PolicySignatureInvalid
from gateway.request.completion import log_failure
from ops.audit.errors import AuditError, AuditUnavailable
from ops.process.logging import configure
from serving.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc

    from gateway.edge.service import Stream, Unary
    from gateway.host.app import App, Staged
    from gateway.request.gateway import Gateway
    from ops.process.logging import Log

EX_TEMPFAIL = 75
EX_CONFIG = 78
HEALTH_EVERY_S = 0.5
COMMAND_BYTES_MAX = 1024 * 1024  # where the canaries of a thousand models stand is told in one
PROBLEM_CHARACTERS_MAX = 4096  # of an event: a policy may have as many problems as principals
SWITCH_INTERVAL_S = (
    0.0005  # threads hand the interpreter over sooner than the default 5 ms: measured, 8 % more requests
)


@dataclass(slots=True)
class Control:
    """Answers the supervisor."""

    app: App
    host: HostLink
    staged: Staged | None = field(default=None)

    async def obey(self, command: dict[str, Any]) -> None:
        """Do one command. When that fails, for whatever reason, say so: a worker must go on listening."""
        try:
            await self._do(command)
        except Exception as problem:  # noqa: BLE001  a fault of ours
            log_failure(self.app.gw.log, "", problem)
            say(event="rejected", problem=f"{type(problem).__name__}; see the log of the worker")

    async def _do(self, command: dict[str, Any]) -> None:
        """Do one command; what is unknown is ignored, the supervisor is of the same build."""
        match command.get("do"):
            case "prepare":
                await self._prepare(Path(command["policy"]), Path(command["models"]))
            case "commit" if self.staged is not None:
                self.app.take_over(self.staged)
                say(event="committed", **digests(self.staged))
                self.staged = None
            case "forget":
                self.forget()
            case "answer":
                self.host.answered(command["number"], command)
            case "move":
                self.app.move_canaries({name: Standing(**fields) for name, fields in command["canaries"].items()})
                say(event="moved", canaries=command["canaries"])
            case "forgive":
                for served in self.app.gw.served.values():
                    if served.watching is not None:
                        served.watching.forgive(command["principals"])

    def isolate(self, file: Path) -> None:
        """Keep out whom the file names, from now on; where it cannot be read, those who were kept out stay so."""
        gw = self.app.gw
        try:
            gw.isolations = read_isolations(file)
        except (FileRejected, OSError) as problem:
            gw.log("isolations-not-read", level="error", problem=str(problem))
        say(event="isolated", digest=gw.isolations.digest)

    def reached(self, command: dict[str, Any]) -> None:
        """Take in how far the log is known to be elsewhere."""
        sizes = {level: (command[level][0], command[level][1]) for level in ("replica", "witnessed")}
        self.app.gw.elsewhere.told(sizes, behind=command["behind"])

    def forget(self) -> None:
        """Let go of what was prepared and not used."""
        if self.staged is not None:
            self.app.drop(self.staged.opened)
            self.staged = None

    async def _prepare(self, policy_file: Path, models_file: Path) -> None:
        """Read, open and compile in a thread: with many principals that takes seconds, and calls go on meanwhile."""

        def read() -> Staged:
            policy = load_policy(policy_file, self.app.config.policy.public_key)
            return self.app.stage(policy, read_models(models_file))

        self.forget()
        try:
            self.staged = await asyncio.to_thread(read)
        except (FileRejected, ServingError, OSError) as problem:
            say(event="rejected", problem=str(problem)[:PROBLEM_CHARACTERS_MAX])
        else:
            say(event="prepared", **digests(self.staged))


def digests(staged: Staged) -> dict[str, str]:
    """Return what the supervisor compares."""
    return {"policy": staged.policy.digest, "models": staged.models.digest}


def say(**event: Any) -> None:
    """Tell the supervisor."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def tell_health(gw: Gateway) -> None:
    """Tell the supervisor what the health service would say: whoever asks `/readyz` is told the same."""
    told: bool | None = None
    while True:
        able = serving(gw)
        if able is not told:
            told = able
            say(event="health", able=able)
        await asyncio.sleep(HEALTH_EVERY_S)


async def run(config_file: Path, policy_file: Path, number: int, address: str, profile: str) -> int:
    """Serve until told to stop."""
    config = load_config(config_file, profile)
    name = f"worker-{number}"
    log = configure(config.log.level, sys.stderr, format=config.log.format, worker=name)
    host = HostLink(say)
    methods = data_methods(reflection=config.reflection, shared_limits=shares_limits(config))
    try:
        memory = place_of(config).memory
        models = read_models(memory.with_name(MODELS))
        app = await open_app(
            config,
            policy_file,
            process=name,
            log=log,
            methods=methods,
            bundles=[load_listed(config, listed) for listed in models.listed],
            unloaded=models.unloaded,
            host=host,
            isolations=read_isolations(memory.with_name(ISOLATIONS)),
        )
    except (FileRejected, ServingError, AuditError, OSError) as problem:
        return refuse_to_start(problem, log)
    servers: list[grpc.aio.Server] = []
    telling: asyncio.Task[None] | None = None
    listening: asyncio.Task[None] | None = None
    try:
        data, data_mtls = await listen_all(app, methods, address, servers)
        gc.freeze()  # what is here now stays as long as the process: the collector need not look through it again
        following = {"policy": app.gw.active.digest, "models": models.digest, "isolations": app.gw.isolations.digest}
        say(event="ready", data=data, data_mtls=data_mtls, **following)
        telling = asyncio.create_task(tell_health(app.gw))
        log("serving", address=data, policy=app.gw.active.digest)
        control = Control(app, host)
        try:
            listening = await until_told_to_stop(control)
        finally:
            control.forget()
        log("draining")
    except ListenFailed as problem:
        return refuse_to_start(problem, log)
    finally:
        await drain(servers, app.gw, config.transport.drain_timeout_ms / 1000)
        for task in (telling, listening):
            if task is not None:
                task.cancel()
        await app.close()
    log("drained")
    return 0


def refuse_to_start(problem: Exception, log: Log) -> int:
    """Say why there will be no worker; returns the exit code."""
    log("worker-not-started", level="error", error=type(problem).__name__, problem=str(problem))
    say(event="failed", problem=str(problem)[:PROBLEM_CHARACTERS_MAX])
    return EX_TEMPFAIL if isinstance(problem, AuditUnavailable | PolicySignatureInvalid) else EX_CONFIG


async def listen_all(
    app: App, methods: Mapping[str, Unary | Stream], address: str, servers: list[grpc.aio.Server]
) -> tuple[str, str | None]:
    """Start a server for each data port and return their addresses. They differ in what may prove who is calling."""

    async def start(at: str, *, client_certificates: bool) -> str:
        service = Service(app.gw, methods, client_certificates=client_certificates)
        for _ in range(app.config.transport.servers_per_port):
            server = open_server(service, app.config)
            at = listen(server, at, app.config.tls, client_certificate=client_certificates)
            servers.append(server)
            await server.start()
        return at

    data = await start(address, client_certificates=False)
    mtls = app.config.listen.data_mtls
    return data, await start(mtls, client_certificates=True) if mtls is not None else None


async def until_told_to_stop(control: Control) -> asyncio.Task[None]:
    """Obey commands until SIGTERM, SIGINT, or until the supervisor is gone.

    Returns what goes on listening: calls that drain may wait for what the supervisor says of the log elsewhere.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    reader = asyncio.StreamReader(COMMAND_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def commands() -> None:
        try:
            async for line in reader:
                command = json.loads(line)
                match command.get("do"):  # neither may wait for a policy that takes seconds to prepare
                    case "isolate":
                        control.isolate(Path(command["isolations"]))
                    case "reached":
                        control.reached(command)
                    case _:
                        waiting.put_nowait(command)
        except ValueError as problem:  # it is too long, or no JSON
            control.app.gw.log("command-not-read", level="error", problem=str(problem))
        finally:
            stop.set()  # a worker that hears nothing any more must not go on

    async def obey() -> None:
        while True:
            await control.obey(await waiting.get())

    listening, obeying = asyncio.create_task(commands()), asyncio.create_task(obey())
    try:
        await stop.wait()
    except BaseException:
        listening.cancel()
        raise
    finally:
        obeying.cancel()
    return listening


def main(arguments: list[str]) -> int:
    """Entry point of the process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config_file, policy_file, number, address, profile = arguments
    return uvloop.run(run(Path(config_file), Path(policy_file), int(number), address, profile))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
