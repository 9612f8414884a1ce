"""The layering: who may import whom, which library lives where, and that importing does nothing.

Imports are read from the syntax tree, those inside functions and under TYPE_CHECKING included. What importing does is
watched in a process of its own.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "gateway": ROOT / "gateway",
    "serving": ROOT / "serving",
    "defenses": ROOT / "defenses",
    "ops": ROOT / "ops",
    "stockade": ROOT / "proto" / "stockade",
}
OTHER_INTERPRETERS = "gateway/tools/bench/servers/"  # scripts that the peers' own interpreters run

HOMES = {
    "grpc": ("gateway/",),
    "grpc_health": ("gateway/",),
    "grpc_reflection": ("gateway/",),
    "grpc_channelz": ("gateway/",),
    "tritonclient": ("gateway/tools/demo/triton_client.py",),
    "onnxruntime": ("serving/engines/inprocess.py",),
    "onnx": ("serving/train/",),
    "torch": ("serving/train/", "defenses/lab/"),
    "ray": ("serving/engines/ray/cluster.py", "serving/engines/ray/replica.py"),
    "art": ("defenses/art_adapter.py",),
    "rdata": ("serving/train/payments/rtables.py",),
    "opentelemetry": ("ops/process/tracing.py",),
    "redis": ("gateway/admission/redis.py",),
    "duckdb": ("ops/audit/export/query.py",),
    "pyarrow": ("ops/audit/export/parquet.py", "ops/audit/export/query.py"),
    "prometheus_client": ("ops/metrics/",),
    "prometheus_client.parser": ("ops/metrics/", "gateway/tools/local.py"),  # reads the page as any client would
}
"""Where a library may be imported: folders and files. A longer name stands before a shorter one."""


def python_files() -> list[Path]:
    return sorted(path for source in SOURCES.values() for path in source.rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """Dotted names that a module imports from elsewhere, wherever in it the statement stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None, "absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def home_of(name: str) -> tuple[str, ...] | None:
    """Where a dotted name may be imported; None: anywhere."""
    parts = name.split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((HOMES[prefix] for prefix in prefixes if prefix in HOMES), None)


def strays(source: str, where: str) -> list[str]:
    """Imports of libraries that have no business in the module `where` (a path from the root)."""
    if where.startswith(OTHER_INTERPRETERS):
        return []
    named = ((name, home_of(name)) for name in imported(source))
    return [name for name, home in named if home is not None and not where.startswith(home)]


def run_python(program: str, *arguments: str) -> str:
    """Run a program in a process of its own, without the measuring of coverage, which loads modules too."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_contracts_of_import_linter_hold():
    report = run_python("import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")
    assert "0 broken" in report
    assert "0 kept" not in report


def test_every_package_has_modules_to_look_at():
    assert all(list(source.rglob("*.py")) for source in SOURCES.values())


def test_libraries_stay_in_their_homes():
    found = {
        where: wrong
        for path in python_files()
        if (wrong := strays(path.read_text(encoding="utf-8"), where := path.relative_to(ROOT).as_posix()))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "where", "stray"),
    [
        ("import grpc", "ops/audit/store/client.py", ["grpc"]),
        ("import grpc", "gateway/edge/service.py", []),
        ("from grpc_health.v1 import health_pb2", "serving/engines/engine.py", ["grpc_health.v1.health_pb2"]),
        ("def run():\n    import torch.nn", "serving/queue/batcher.py", ["torch.nn"]),
        ("import torch", "serving/train/kiosk/loop.py", []),
        ("import onnxruntime as ort", "serving/bundles/graph.py", ["onnxruntime"]),
        ("from ray import serve", "gateway/tools/bench/servers/ray_proxy.py", []),
        ("from ray import serve", "gateway/tools/bench/targets.py", ["ray.serve"]),
        ("from art.attacks import evasion", "defenses/screens/evidence.py", ["art.attacks.evasion"]),
        ("from prometheus_client import Counter", "gateway/tools/local.py", ["prometheus_client.Counter"]),
        ("from prometheus_client.parser import text_string_to_metric_families", "gateway/tools/local.py", []),
        ("if TYPE_CHECKING:\n    import grpc", "defenses/budget/policy.py", ["grpc"]),
        ("from . import torch", "defenses/budget/policy.py", []),
        ("import raygun, artful", "defenses/budget/policy.py", []),
        ("from redis.asyncio import Connection", "gateway/host/shared_limits.py", ["redis.asyncio.Connection"]),
        ("from redis.asyncio import Connection", "gateway/admission/redis.py", []),
    ],
)
def test_a_stray_import_is_seen(source, where, stray):
    assert strays(source, where) == stray


def test_the_folder_of_the_wire_contracts_is_no_package():
    """`import proto` belongs to proto-plus; an `__init__.py` here would take it away from whoever needs it."""
    assert not (ROOT / "proto" / "__init__.py").exists()
    assert (ROOT / "proto" / "stockade" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        (
            "gateway.host.worker",
            ["torch", "art", "ray", "sklearn", "matplotlib", "tritonclient", "opentelemetry", "redis", "defenses.lab"],
        ),
        ("gateway.host.serve", ["torch", "art", "ray", "sklearn", "matplotlib", "tritonclient", "onnx", "onnxruntime"]),
        ("gateway.cli.main", ["torch", "grpc", "onnxruntime", "numpy", "pydantic", "prometheus_client"]),
        ("ops.audit.store.recorder_main", ["grpc", "gateway", "stockade", "serving", "defenses", "numpy", "pydantic"]),
        (
            "ops.audit.verify.verify",
            ["grpc", "gateway", "stockade", "serving", "defenses", "sqlite3", "prometheus_client"],
        ),
    ],
)
def test_a_process_loads_no_more_than_it_needs(module, forbidden):
    program = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps([*sys.modules]))"
    loaded = json.loads(run_python(program, module))
    assert module in loaded
    assert [name for name in forbidden if name in loaded] == []


def test_the_verifier_stands_on_pure_modules_alone():
    """This, and they, are all there is to read for whoever audits the audit."""
    program = "import json, sys, ops.audit.verify.epochs; print(json.dumps([*sys.modules]))"
    loaded = {name for name in json.loads(run_python(program)) if name.startswith("ops.")}
    verify = {"verify", *(f"verify.{name}" for name in ("verify", "bundles", "epochs", "report", "tree"))}
    kinds = {"log.schemas", *(f"log.schemas.{name}" for name in ("log", "models", "operators", "requests"))}
    log = {"log", *(f"log.{name}" for name in ("checkpoint", "entry", "epochs", "merkle", "shapes", "tiles"))}
    pure = {"errors", "reader", "reader.read_file"} | verify | kinds | log
    assert loaded == {"ops.audit", *(f"ops.audit.{name}" for name in pure)}


WATCH = r"""
import importlib, json, os, sys, threading

ours = tuple(sys.argv[2:])
seen = []
started = threading.Thread.start


def culprit():
    # The innermost frame that is neither this program nor the standard library: who did it.
    frame = sys._getframe(3)
    if "importlib._bootstrap" in frame.f_code.co_filename:
        return None  # the interpreter reads a module
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(ours):
            return f"{os.path.relpath(name, os.path.commonpath(ours))}:{frame.f_lineno}"
        if "site-packages" in name or name == "<string>":
            return None
        frame = frame.f_back
    return None


def note(what):
    who = culprit()
    if who is not None:
        seen.append(f"{who}: {what}")


EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.putenv", "os.unsetenv", "os.listdir", "os.scandir",
          "subprocess.Popen", "os.exec", "os.fork", "sqlite3.connect", "signal.signal"}


def hook(event, arguments):
    if event in EVENTS or event.startswith("socket."):
        note(f"{event} {arguments[:1]}")


class Watched(type(os.environ)):
    def __getitem__(self, key):
        note(f"environment {key}")
        return super().__getitem__(key)


def start(thread):
    note(f"thread {thread.name}")
    started(thread)


sys.addaudithook(hook)
os.environ.__class__ = Watched
threading.Thread.start = start
interval = sys.getswitchinterval()
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
if sys.getswitchinterval() != interval:
    seen.append("the switch interval")
print(json.dumps(seen))
"""


def watched(modules: list[str], *roots: Path) -> list[str]:
    return json.loads(run_python(WATCH, json.dumps(modules), *map(str, roots)).splitlines()[-1])


def module_names() -> list[str]:
    names = []
    for package, source in SOURCES.items():
        for path in sorted(source.rglob("*.py")):
            if path.relative_to(ROOT).as_posix().startswith(OTHER_INTERPRETERS):
                continue
            parts = (package, *path.relative_to(source).with_suffix("").parts)
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.slow
def test_importing_does_nothing():
    """No environment, no files, no threads, no sockets, no processes: in any module of ours."""
    assert watched(module_names(), *SOURCES.values()) == []


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import os\nHOME = os.environ.get('HOME')", "environment HOME"),
        ("from pathlib import Path\nTEXT = Path(__file__).read_text()", "open"),
        ("import threading\nthreading.Thread(target=int).start()", "thread"),
        ("import socket\nPAIR = socket.socketpair()", "socket.__new__"),
        ("import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])", "subprocess.Popen"),
        ("import sys\nsys.setswitchinterval(0.001)", "the switch interval"),
    ],
)
def test_what_importing_does_is_seen(tmp_path, source, what):
    module = tmp_path / "does_something.py"
    module.write_text(source)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{WATCH}"
    seen = json.loads(run_python(program, '["does_something"]', str(tmp_path)).splitlines()[-1])
    assert any(what in each for each in seen), seen
