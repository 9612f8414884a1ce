"""`stockade`: its verbs. Arguments in, one call, one exit code; no logic lives here.

Exit codes: 0 done; 1 done, and the answer is no (a check that fails, a client that was refused, a gateway that ran and
could not go on); 2 usage, or something that cannot be used or is not there. `audit verify` has its own: 0 ok,
1 tampered, 2 incomplete, 3 stale, 4 usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.host_verbs import add_check, add_init, add_recorder, add_serve
from gateway.cli.signing_verbs import add_keys, add_policy
from gateway.cli.verbs import group, lazy, verb
from gateway.tools.arguments import seconds, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

EX_INTERRUPTED = 130
IMAGES_MAX = 1_000_000
LIBRARY_DEFAULTS = {"GRPC_VERBOSITY": "NONE", "GRPC_ENABLE_FORK_SUPPORT": "0", "ORT_DISABLE_TELEMETRY": "1"}
"""gRPC writes lines of its own to standard error, also for what strangers do; ONNX Runtime sends its maker news of what
it runs. Children inherit that neither does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    try:
        options = command_line().parse_args(arguments)
        for name, value in LIBRARY_DEFAULTS.items():
            os.environ.setdefault(name, value)  # before they are imported, which is when they read them
        return int(options.run(options))
    except KeyboardInterrupt:
        return EX_INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    top = argparse.ArgumentParser(
        prog="stockade",
        description="A secure model-serving gateway with adversarial defenses and a tamper-evident audit log.",
    )
    top.add_argument("--version", action=ShowVersion, nargs=0, help="show the version and exit")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    add_init(verbs)
    add_check(verbs)
    add_serve(verbs)
    add_recorder(verbs)
    add_policy(verbs)
    add_keys(verbs)
    add_client(verbs)
    add_demo(verbs)
    add_audit(verbs)
    add_backup(verbs)
    add_operators(verbs)
    add_models(verbs)
    add_feedback(verbs)
    add_ray(verbs)
    add_train(verbs)
    add_defenses(verbs)
    add_lab(verbs)
    add_bench(verbs)
    return top


class ShowVersion(argparse.Action):
    """Look the version up when it is asked for: that takes longer than all verbs together."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"stockade {version('stockade')}\n")
        parser.exit()


def add_client(verbs: Any) -> None:
    client = verb(verbs, "client", lazy("gateway.tools.client"), "send images to a gateway and show its answers")
    client.add_argument("directory", type=Path, metavar="DIR", help="a directory of `stockade init`")
    client.add_argument("--address", help="host:port (default: the data port of DIR/stockade.yaml)")
    client.add_argument("--key", type=Path, help="API key file (default: DIR/clients/kiosk-7.key)")
    client.add_argument("--images", type=Path, help="safetensors with images and labels (default: the committed 1,000)")
    client.add_argument(
        "--count", type=whole(1, IMAGES_MAX), default=10, metavar="N", help="how many to send (default: 10)"
    )
    client.add_argument("--json", action="store_true", help="print answers as JSON lines")


def add_demo(verbs: Any) -> None:
    demo = verb(verbs, "demo", lazy("gateway.tools.demo"), "show the whole job: serve, attack, measure, verify, tamper")
    demo.add_argument("--report", type=Path, metavar="FILE", help="write the results as JSON")
    demo.add_argument(
        "--page", type=Path, default=Path("out/demo.html"), help="page with plots (default: out/demo.html)"
    )
    demo.add_argument("--keep", type=Path, metavar="DIR", help="keep the gateway's directory here")
    demo.add_argument(
        "--client-python", type=Path, metavar="FILE", help="Python with tritonclient (default: .venv-client)"
    )
    demo.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")


def add_audit(verbs: Any) -> None:
    from gateway.cli import custody_arguments
    from gateway.cli.audit_arguments import AuditParser, add_verbs

    text = "the tamper-evident log"
    audit = verbs.add_parser("audit", help=text, description=text)
    audit_verbs = audit.add_subparsers(metavar="VERB", required=True, parser_class=AuditParser)
    add_verbs(audit_verbs)
    custody_arguments.add_verbs(audit_verbs)


def add_backup(verbs: Any) -> None:
    from gateway.cli.backup_arguments import add_backup_verbs, add_restore

    add_backup_verbs(group(verbs, "backup", "encrypted backups of a gateway: made, verified, tried out"))
    add_restore(verbs)


def add_operators(verbs: Any) -> None:
    from gateway.cli import incident_arguments, quarantine_arguments
    from gateway.tools import tenant_arguments as segmentation_arguments

    tenants = group(verbs, "tenants", "who calls a running gateway, and who is kept out")
    segmentation_arguments.add_verbs(tenants)
    incident_arguments.add_verbs(group(verbs, "incident", "what happened, who was affected, and the way back"))
    quarantine_arguments.add_verbs(group(verbs, "quarantine", "what screens found, for people to look at"))


def add_models(verbs: Any) -> None:
    from gateway.cli.registry_arguments import add_verbs

    models = group(verbs, "models", "signed models: what they have proven, who said so, which of them answer")
    add_verbs(models)


def add_feedback(verbs: Any) -> None:
    from gateway.cli.feedback_arguments import add_verbs

    feedback = group(verbs, "feedback", "labels that clients sent: see them, decide on them, learn from them")
    add_verbs(feedback)


def add_ray(verbs: Any) -> None:
    ray = group(verbs, "ray", "the Serve applications that run the models of a gateway with `engine.kind: ray`")
    here = "gateway.tools.ray"
    config = verb(ray, "config", lazy(here, "run_config"), "print them as a plain Serve config file")
    deploy = verb(
        ray, "deploy", lazy(here, "run_deploy"), "deploy or update them, one replica after the other, and wait"
    )
    status = verb(
        ray, "status", lazy(here, "run_status"), "show them, their replicas, and whether they hold these bundles"
    )
    for each in (config, deploy, status):
        each.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    deploy.add_argument(
        "--prune", action="store_true", help="remove applications of the namespace that are of no bundle here"
    )
    deploy.add_argument("--timeout", type=seconds, default=180.0, metavar="SECONDS", help="how long to wait (180)")
    for each in (deploy, status):
        each.add_argument("--json", action="store_true", help="print JSON")


def add_train(verbs: Any) -> None:
    from gateway.cli.train import add_arguments, run

    add_arguments(verb(verbs, "train", run, "train a model from raw data to a signed bundle"))


def add_lab(verbs: Any) -> None:
    from gateway.cli.lab import add_verbs

    add_verbs(group(verbs, "lab", "attack the defenses, and write down what attackers achieve"))


def add_defenses(verbs: Any) -> None:
    from gateway.cli.defenses import add_verbs

    add_verbs(group(verbs, "defenses", "have the screens know your benign traffic"))


def add_bench(verbs: Any) -> None:
    from gateway.tools.bench import add_verbs

    add_verbs(group(verbs, "bench", "measure, beside the named peers"))


if __name__ == "__main__":
    sys.exit(main())
