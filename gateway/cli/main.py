"""`stockade`: its groups of commands, each in a module that is imported when one of its commands is asked for.

Exit codes: 0 done; 1 done, and the answer is no (a check that fails, a client that was refused, a gateway that ran and
could not go on); 2 usage, or something that cannot be used or is not there. `audit verify` has its own: 0 ok,
1 tampered, 2 incomplete, 3 stale, 4 usage.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

if TYPE_CHECKING:
    from collections.abc import Sequence

EX_INTERRUPTED = 130
EX_USAGE = 2
EX_AUDIT_USAGE = 4
LIBRARY_DEFAULTS = {
    "GRPC_VERBOSITY": "NONE",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "ORT_DISABLE_TELEMETRY": "1",
    "PYDANTIC_DISABLE_PLUGINS": "1",
}
"""gRPC writes lines of its own to standard error, also for what strangers do; ONNX Runtime sends its maker news of what
it runs; Pydantic loads plugins of other packages. Children inherit that none does. Typer sets the last one for a moment
whenever it reads a value, and takes it away again unless it was there: two threads would trip over that."""
HOST, OPERATIONS = "host", "operations"
VERBS = {
    "init": (HOST, "make a working, secure directory: certificates, keys, both files"),
    "check": (HOST, "check a configuration without starting it"),
    "serve": (HOST, "run a gateway: recorder, workers, admin port, metrics"),
    "recorder": (HOST, "run the recorder alone, where audit.recorder is external"),
    "policy": ("policy", "sign and reload the policy"),
    "keys": ("keys", "API keys, and the keys of approvers, logs and witnesses"),
    "client": (HOST, "send images to a gateway and show its answers"),
    "demo": (HOST, "show the whole job: serve, attack, measure, verify, tamper"),
    "audit": ("audit", "the tamper-evident log"),
    "backup": ("backup", "encrypted backups of a gateway: made, verified, tried out"),
    "restore": (HOST, "put a backup into a new directory"),
    "tenants": (OPERATIONS, "who calls a running gateway, and who is kept out"),
    "incident": ("incident", "what happened, who was affected, and the way back"),
    "quarantine": (OPERATIONS, "what screens found, for people to look at"),
    "models": ("models", "signed models: what they have proven, who said so, which of them answer"),
    "feedback": ("feedback", "labels that clients sent: see them, decide on them, learn from them"),
    "ray": ("ray", "the Serve applications that run the models of a gateway with `engine.kind: ray`"),
    "train": ("train", "train a model from raw data to a signed bundle"),
    "defenses": ("defenses", "have the screens know your benign traffic"),
    "lab": ("lab", "attack the defenses, and write down what attackers achieve"),
    "bench": ("bench", "measure, beside the named peers"),
}
"""Each verb, the module of `gateway.cli` that has it, and what stands beside it in `stockade --help`."""


class Verbs(TyperGroup):
    """The verbs. Each is looked up in its module when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names, in the order in which they are shown."""
        return [*VERBS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a verb, or None where there is none of this name."""
        if cmd_name not in VERBS:
            return None
        module, _ = VERBS[cmd_name]
        found = get_group(import_module(f"gateway.cli.{module}").app)
        return found if module == cmd_name and cmd_name not in found.commands else found.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of verbs; no module is loaded for it."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script. Wrong usage, `--help` and `--version` end in SystemExit."""
    for name, value in LIBRARY_DEFAULTS.items():
        os.environ.setdefault(name, value)  # before they are imported, which is when they read them
    top, words = command_line(), [*(sys.argv[1:] if arguments is None else arguments)]
    try:
        with top.make_context("stockade", words) as context:
            return int(top.invoke(context))
    except typer.Exit as done:
        raise SystemExit(done.exit_code) from None
    except typer.TyperException as problem:
        refuse(problem, top, words)
    except KeyboardInterrupt:
        return EX_INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def command_line() -> Any:
    """Return the command line: a group of Typer's, with everything below it."""
    top = typer.Typer(cls=Verbs, rich_markup_mode=None, add_completion=False, no_args_is_help=False)
    top.callback()(stockade)
    return get_command(top)


def show_version(wanted: bool) -> None:
    """Look the version up when it is asked for: that takes longer than all verbs together."""
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"stockade {version('stockade')}\n")
        raise typer.Exit


def stockade(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="show the version and exit")
    ] = False,
) -> None:
    """A secure model-serving gateway with adversarial defenses and a tamper-evident audit log."""


def refuse(problem: Any, top: Any, words: Sequence[str]) -> NoReturn:
    """Say what is wrong with a command line, and end."""
    context = problem.ctx or context_of(top, words)
    said, param = problem.format_message(), getattr(problem, "param", None)
    if param is not None and problem.message:
        name = "/".join(param.opts) if param.param_type_name == "option" else param.metavar
        said = f"argument {name}: {problem.message}"
    elif isinstance(problem, typer.BadParameter) and param is None:
        said = problem.message
    sys.stderr.write(f"{context.get_usage()}\n{context.command_path}: error: {said}\n")
    path = context.command_path.split()
    # The specification of the log's verifier has 4 for wrong usage; 2 would say that the log is incomplete.
    raise SystemExit(EX_AUDIT_USAGE if path[1:2] == ["audit"] and len(path) == 3 else EX_USAGE)


def context_of(top: Any, words: Sequence[str]) -> Any:
    """Return the context of the command that these words name: Typer does not say it of every mistake."""
    context = top.make_context("stockade", [], resilient_parsing=True)
    for word in words:
        found = context.command.get_command(context, word) if isinstance(context.command, TyperGroup) else None
        if found is None:
            break
        context = found.make_context(word, [], parent=context, resilient_parsing=True)
    return context


if __name__ == "__main__":
    sys.exit(main())
