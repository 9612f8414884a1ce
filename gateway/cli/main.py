"""`stockade`: one verb a function. Arguments in, one call, one exit code; no logic lives here.

Exit codes: 0 done; 1 done, and the answer is no (a check that fails, a client that was refused, a gateway that ran and
could not go on); 2 usage, or something that cannot be used or is not there. `audit verify` has its own: 0 ok,
1 tampered, 2 incomplete, 3 stale, 4 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from gateway.cli.arguments import first_port, seconds, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EX_NO = 1
EX_UNUSABLE = 2
EX_INTERRUPTED = 130
KEY_DAYS_MAX = 3650
IMAGES_MAX = 1_000_000
LIBRARY_DEFAULTS = {"GRPC_VERBOSITY": "NONE", "GRPC_ENABLE_FORK_SUPPORT": "0", "ORT_DISABLE_TELEMETRY": "1"}
"""gRPC writes lines of its own to standard error, also for what strangers do; ONNX Runtime sends its maker news of what
it runs. Children inherit that neither does."""

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


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
    top.add_argument("--version", action="version", version=f"stockade {version('stockade')}")
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


def verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    """Add a verb with its one-line help."""
    added: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    added.set_defaults(run=run)
    return added


def group(verbs: Any, name: str, text: str) -> Any:
    """Add a verb that has verbs of its own."""
    return verbs.add_parser(name, help=text, description=text).add_subparsers(metavar="VERB", required=True)


def fail(problem: object, code: int = EX_UNUSABLE) -> int:
    """Say what is wrong, on standard error, and return the exit code for it."""
    from gateway.config.document import unusable

    text = unusable(problem) if isinstance(problem, OSError) else str(problem)
    err.print(f"[red]stockade:[/red] {escape(text)}")
    return code


def show(value: object) -> None:
    """Print JSON for machines."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def add_init(verbs: Any) -> None:
    init = verb(verbs, "init", run_init, "make a working, secure directory: certificates, keys, both files")
    init.add_argument("directory", type=Path, metavar="DIR")
    init.add_argument("--host", action="append", default=[], metavar="NAME", help="another name that clients use")
    init.add_argument(
        "--listen", default="127.0.0.1", metavar="HOST", help="where clients connect (default: 127.0.0.1)"
    )
    init.add_argument(
        "--port",
        type=first_port,
        metavar="N",
        help="first of four ports: data N, metrics N+1, admin N+2, data_mtls N+3 (default: 8001; 0: any free ones)",
    )
    init.add_argument("--bundles", type=Path, help="signed models to copy (default: those that come with the project)")
    init.add_argument(
        "--upstream", metavar="ADDRESS", help="a server that runs the model: Triton, MLServer, KServe; needs --model"
    )
    init.add_argument("--model", metavar="NAME[/VERSION]", help="what that model is called here (version: 1)")
    init.add_argument("--json", action="store_true", help="print the result as JSON")


def run_init(options: argparse.Namespace) -> int:
    from gateway.cli.init import InitRefused, Ports, Upstream, init_directory, render
    from gateway.samples import bundles_directory

    if (options.upstream is None) != (options.model is None):
        return fail("--upstream and --model belong together")
    name, _, number = (options.model or "").partition("/")
    try:
        report = init_directory(
            options.directory,
            now=datetime.now(UTC),
            random_bytes=os.urandom,
            hosts=options.host,
            listen_host=options.listen,
            ports=Ports() if options.port is None else Ports.from_first(options.port),
            bundles=options.bundles or bundles_directory(),
            upstream=Upstream(options.upstream, name, number or "1") if options.upstream else None,
        )
    except (InitRefused, OSError) as problem:
        return fail(problem)
    if options.json:
        show(report.as_json())
    else:
        render(report, out)
    return 0


def add_check(verbs: Any) -> None:
    check = verb(verbs, "check", run_check, "check a configuration without starting it")
    check.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    add_profile(check)
    check.add_argument("--json", action="store_true", help="print findings and the effective configuration as JSON")


def add_profile(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--profile", metavar="NAME", help="other defaults: standard, edge (default: as the file says)")


def run_check(options: argparse.Namespace) -> int:
    from gateway.check.check import check, render

    report = check(options.file, datetime.now(UTC), options.profile)
    if options.json:
        show(report.as_json())
    else:
        render(report, out)
    return 0 if report.ok else EX_NO


def add_serve(verbs: Any) -> None:
    serve = verb(verbs, "serve", run_serve, "run a gateway: recorder, workers, admin port, metrics")
    serve.epilog = "Exit codes: 0 told to stop; 1 it ran and could not go on; 2 it could not start."
    serve.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    add_profile(serve)


def run_serve(options: argparse.Namespace) -> int:
    import uvloop

    from gateway.config.document import FileRejected
    from gateway.host.host import WentDown, serve
    from gateway.host.occupancy import DirectoryInUse
    from gateway.host.supervisor import StartFailed
    from gateway.rpc.server import ListenFailed
    from ops.audit.errors import AuditError
    from serving.errors import ServingError

    def announce(facts: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()

    try:
        return uvloop.run(serve(options.file.absolute(), announce, options.profile))
    except WentDown as problem:
        return fail(problem, EX_NO)
    except (FileRejected, ServingError, AuditError, DirectoryInUse, StartFailed, ListenFailed, OSError) as problem:
        return fail(problem)


def add_recorder(verbs: Any) -> None:
    recorder = verb(verbs, "recorder", run_recorder, "run the recorder alone, where audit.recorder is external")
    recorder.epilog = "Exit codes: 0 told to stop; 2 the file cannot be used; 65 to 76 as in docs/operations.md."
    recorder.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    add_profile(recorder)


def run_recorder(options: argparse.Namespace) -> int:
    from gateway.config.document import FileRejected
    from gateway.host.recorder import RecorderManaged, run_alone

    try:
        return run_alone(options.file.absolute(), options.profile)
    except (FileRejected, RecorderManaged) as problem:
        return fail(problem)


def add_policy(verbs: Any) -> None:
    policy = group(verbs, "policy", "sign and reload the policy")
    sign = verb(policy, "sign", run_policy_sign, "sign policy.yaml after a change")
    sign.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    sign.add_argument("--key", type=Path, help="private key (default: policy.key beside the configured public key)")
    reload = verb(
        policy, "reload", run_policy_reload, "ask a running gateway, over its admin port, to take the policy over"
    )
    reload.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    reload.add_argument(
        "--identity", type=Path, metavar="PREFIX", help="PREFIX.crt and PREFIX.key (default: clients/operator.tls)"
    )
    reload.add_argument(
        "--ca", type=Path, metavar="FILE", help="who signed the server's certificate, PEM (default: tls.client_ca)"
    )
    for each in (sign, reload):
        each.add_argument("--json", action="store_true", help="print what came of it as JSON")


def run_policy_sign(options: argparse.Namespace) -> int:
    from gateway.config.config import load_config
    from gateway.config.document import FileRejected
    from gateway.policy.policy import sign_checked

    try:
        source = load_config(options.file).policy
        policy = sign_checked(source.file, options.key or source.public_key.with_suffix(".key"), source.public_key)
    except (FileRejected, OSError) as problem:
        return fail(problem)
    if options.json:
        show({"file": str(source.file), "revision": policy.revision, "digest": policy.digest})
    else:
        out.print(f"signed {source.file.name}: revision {policy.revision}, digest {policy.digest}")
    return 0


def run_policy_reload(options: argparse.Namespace) -> int:
    from gateway.cli.operator import OperatorFailed, reload_policy

    try:
        reply = reload_policy(options.file, options.identity, options.ca)
    except OperatorFailed as problem:
        return fail(problem)
    if options.json:
        names = ("accepted", "digest", "previous_digest", "problem")
        show({name: getattr(reply, name) for name in names})
    elif reply.accepted:
        out.print(f"in force: {reply.digest} (was {reply.previous_digest})")
    else:
        err.print(f"refused, {reply.digest} stays in force:\n{escape(reply.problem)}")
    return 0 if reply.accepted else EX_NO


def add_keys(verbs: Any) -> None:
    from gateway.cli import audit_arguments
    from gateway.registry import arguments as registry_arguments

    keys = group(verbs, "keys", "API keys, and the keys of approvers, logs and witnesses")
    registry_arguments.add_key_verb(verb, keys)
    add = verb(
        keys, "add", run_keys_add, "make an API key; prints what to put into the policy, writes the key to a file"
    )
    add.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    add.add_argument("id", metavar="ID", help="the key's public half, such as kiosk-7-b")
    add.add_argument("--out", type=Path, required=True, help="file for the key, created with mode 0600")
    add.add_argument(
        "--days", type=whole(1, KEY_DAYS_MAX), default=365, metavar="N", help="how long it is good for (default: 365)"
    )
    log = verb(keys, "log", run_keys_log, "make the key of a new audit log; prints its public half")
    log.add_argument("origin", metavar="ORIGIN", help="the log's name, such as example.org/gateway-1; never used twice")
    log.add_argument("--out", type=Path, required=True, help="file for the key, mode 0600; a .vkey is put beside it")
    for each in (add, log, audit_arguments.add_key_verb(verb, keys)):
        each.add_argument("--json", action="store_true", help="print what was made as JSON, never the key itself")


def run_keys_add(options: argparse.Namespace) -> int:
    from gateway.cli.keys import add_key
    from gateway.config.document import FileRejected, unusable

    expires = datetime.now(UTC) + timedelta(days=options.days)
    try:
        added = add_key(options.file, options.id, options.out, expires, os.urandom)
    except FileExistsError as problem:
        return fail(unusable(problem, "name a new file with --out"))
    except (FileRejected, OSError, ValueError) as problem:
        return fail(problem)
    if added.unchecked:
        err.print(f"[yellow]warning:[/yellow] whether the id is new was not seen: {escape(added.unchecked)}")
    if options.json:
        show(added.as_json())
    else:
        err.print(f"the key is in {added.file}; put this under `api_keys` of its principal, raise `revision`, sign:")
        out.print(added.entry, markup=False)
    return 0


def run_keys_log(options: argparse.Namespace) -> int:
    from gateway.cli.log_key import SEED_BYTES, make_log_key
    from gateway.config.document import unusable

    try:
        vkey = make_log_key(options.origin, os.urandom(SEED_BYTES), options.out)
    except FileExistsError as problem:
        return fail(unusable(problem, "name a new file with --out: the key of a log is never replaced"))
    except (OSError, ValueError) as problem:
        return fail(problem)
    if options.json:
        show({"origin": options.origin, "file": str(options.out), "vkey": vkey})
    else:
        out.print(vkey, markup=False)
    return 0


def add_client(verbs: Any) -> None:
    client = verb(verbs, "client", run_client, "send images to a gateway and show its answers")
    client.add_argument("directory", type=Path, metavar="DIR", help="a directory of `stockade init`")
    client.add_argument("--address", help="host:port (default: the data port of DIR/stockade.yaml)")
    client.add_argument("--key", type=Path, help="API key file (default: DIR/clients/kiosk-7.key)")
    client.add_argument("--images", type=Path, help="safetensors with images and labels (default: the committed 1,000)")
    client.add_argument(
        "--count", type=whole(1, IMAGES_MAX), default=10, metavar="N", help="how many to send (default: 10)"
    )
    client.add_argument("--json", action="store_true", help="print answers as JSON lines")


def run_client(options: argparse.Namespace) -> int:
    from gateway.cli.client import run

    return run(options)


def add_demo(verbs: Any) -> None:
    demo = verb(verbs, "demo", run_demo, "show the whole job: serve, attack, measure, verify, tamper")
    demo.add_argument("--report", type=Path, metavar="FILE", help="write the results as JSON")
    demo.add_argument(
        "--page", type=Path, default=Path("out/demo.html"), help="page with plots (default: out/demo.html)"
    )
    demo.add_argument("--keep", type=Path, metavar="DIR", help="keep the gateway's directory here")
    demo.add_argument(
        "--client-python", type=Path, metavar="FILE", help="Python with tritonclient (default: .venv-client)"
    )
    demo.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")


def run_demo(options: argparse.Namespace) -> int:
    from gateway.demo import run

    return run(options)


def add_audit(verbs: Any) -> None:
    from gateway.cli.audit_arguments import AuditParser, add_verbs
    from gateway.custody import arguments as custody_arguments

    text = "the tamper-evident log"
    audit = verbs.add_parser("audit", help=text, description=text)
    audit_verbs = audit.add_subparsers(metavar="VERB", required=True, parser_class=AuditParser)
    add_verbs(verb, audit_verbs)
    custody_arguments.add_verbs(verb, audit_verbs)


def add_backup(verbs: Any) -> None:
    from gateway.cli.backup_arguments import add_backup_verbs, add_restore

    add_backup_verbs(verb, group(verbs, "backup", "encrypted backups of a gateway: made, verified, tried out"))
    add_restore(verb, verbs)


def add_operators(verbs: Any) -> None:
    from gateway.incident import arguments as incident_arguments
    from gateway.quarantine import arguments as quarantine_arguments
    from gateway.segmentation import arguments as segmentation_arguments

    tenants = group(verbs, "tenants", "who calls a running gateway, and who is kept out")
    segmentation_arguments.add_verbs(verb, tenants)
    incident_arguments.add_verbs(verb, group(verbs, "incident", "what happened, who was affected, and the way back"))
    quarantine_arguments.add_verbs(verb, group(verbs, "quarantine", "what screens found, for people to look at"))


def add_models(verbs: Any) -> None:
    from gateway.registry.arguments import add_verbs

    models = group(verbs, "models", "signed models: what they have proven, who said so, which of them answer")
    add_verbs(verb, models)
    add_models_compare(models)
    adopt = verb(models, "adopt", run_models_adopt, "write the signed bundle of a model that another server runs")
    adopt.add_argument("--server", required=True, metavar="ADDRESS", help="its gRPC port, such as 127.0.0.1:8081")
    adopt.add_argument("--model", required=True, metavar="NAME", help="what the model is called there")
    adopt.add_argument("--version", default="", metavar="V", help="its version there (default: the only one)")
    adopt.add_argument("--as", dest="bundle", metavar="NAME/VERSION", help="what it is called here (default: as there)")
    adopt.add_argument("--out", type=Path, required=True, metavar="DIR", help="bundles.directory of stockade.yaml")
    adopt.add_argument(
        "--signing-key",
        type=Path,
        required=True,
        metavar="FILE",
        help="ECDSA P-256 private key in PEM; created when absent, its public half is written beside it as .pub",
    )
    tensor = "NAME:DATATYPE:SHAPE, the rows as -1: what the server does not say, or says otherwise; may be repeated"
    adopt.add_argument("--input", action="append", default=[], metavar="TENSOR", help=tensor)
    adopt.add_argument("--output", action="append", default=[], metavar="TENSOR", help="the same for an output")
    adopt.add_argument("--encoder", type=Path, metavar="FILE", help="ONNX graph over the same inputs, run here")
    adopt.add_argument("--calibration", type=Path, metavar="FILE", help="safetensors that calibrate screens")
    adopt.add_argument("--ca", type=Path, metavar="FILE", help="who signed the server's certificate, PEM: uses TLS")
    adopt.add_argument("--server-name", metavar="NAME", help="the name in its certificate, where it is another one")
    adopt.add_argument("--certificate", type=Path, metavar="FILE", help="client certificate, PEM")
    adopt.add_argument("--key", type=Path, metavar="FILE", help="its private key, PEM")
    adopt.add_argument("--token", type=Path, metavar="FILE", help="a file with a bearer token")
    adopt.add_argument("--unsafe-plaintext", action="store_true", help="ask another machine without TLS")
    adopt.add_argument("--json", action="store_true", help="print the result as JSON")


def add_models_compare(models: Any) -> None:
    compare = verb(models, "compare", run_models_compare, "show how the versions of models under release do")
    compare.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    compare.add_argument(
        "--identity", type=Path, metavar="PREFIX", help="PREFIX.crt and PREFIX.key (default: clients/operator.tls)"
    )
    compare.add_argument(
        "--ca", type=Path, metavar="FILE", help="who signed the server's certificate, PEM (default: tls.client_ca)"
    )
    compare.add_argument("--json", action="store_true", help="print JSON")


def run_models_compare(options: argparse.Namespace) -> int:
    from gateway.cli.operator import OperatorFailed, status
    from gateway.release.view import as_json, render

    try:
        releases = status(options.file, options.identity, options.ca).releases
    except OperatorFailed as problem:
        return fail(problem)
    if options.json:
        show([as_json(release) for release in releases])
    else:
        render(releases, out)
    return 0


def run_models_adopt(options: argparse.Namespace) -> int:
    from gateway.registry.adopt_view import run

    return run(options)


def add_feedback(verbs: Any) -> None:
    from gateway.feedback.arguments import add_verbs

    feedback = group(verbs, "feedback", "labels that clients sent: see them, decide on them, learn from them")
    add_verbs(verb, feedback)


def add_ray(verbs: Any) -> None:
    ray = group(verbs, "ray", "the Serve applications that run the models of a gateway with `engine.kind: ray`")
    config = verb(ray, "config", run_ray_config, "print them as a plain Serve config file")
    deploy = verb(ray, "deploy", run_ray_deploy, "deploy or update them, one replica after the other, and wait")
    status = verb(ray, "status", run_ray_status, "show them, their replicas, and whether they hold these bundles")
    for each in (config, deploy, status):
        each.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    deploy.add_argument(
        "--prune", action="store_true", help="remove applications of the namespace that are of no bundle here"
    )
    deploy.add_argument("--timeout", type=seconds, default=180.0, metavar="SECONDS", help="how long to wait (180)")
    for each in (deploy, status):
        each.add_argument("--json", action="store_true", help="print JSON")


def run_ray_config(options: argparse.Namespace) -> int:
    from gateway.cli.ray import run_config

    return run_config(options)


def run_ray_deploy(options: argparse.Namespace) -> int:
    from gateway.cli.ray import run_deploy

    return run_deploy(options)


def run_ray_status(options: argparse.Namespace) -> int:
    from gateway.cli.ray import run_status

    return run_status(options)


def add_train(verbs: Any) -> None:
    from gateway.cli.train import add_arguments, run

    add_arguments(verb(verbs, "train", run, "train a model from raw data to a signed bundle"))


def add_lab(verbs: Any) -> None:
    from gateway.cli.lab import add_verbs

    add_verbs(verb, group(verbs, "lab", "attack the defenses, and write down what attackers achieve"))


def add_defenses(verbs: Any) -> None:
    from gateway.cli.defenses import add_verbs

    add_verbs(verb, group(verbs, "defenses", "have the screens know your benign traffic"))


def add_bench(verbs: Any) -> None:
    from gateway.bench import add_verbs

    add_verbs(group(verbs, "bench", "measure, beside the named peers"))


if __name__ == "__main__":
    sys.exit(main())
