"""The running engine and the stack on it, as its story asks them: `docker` and `docker compose`, by DOCKER_HOST."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 120.0

began = time.monotonic()


class Wrong(Exception):
    """The stack is not as it should be."""


def say(text: str) -> None:
    sys.stderr.write(f"[{time.monotonic() - began:5.1f} s] {text}\n")


def require(condition: object, otherwise: str) -> None:
    if not condition:
        raise Wrong(otherwise)


def run(*command: str, ok: bool = True, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    require(done.returncode == 0 or not ok, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def compose(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    return run("docker", "compose", *arguments, ok=ok)


def inside(service: str, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    return compose("exec", "--no-TTY", service, *command, ok=ok)


def eventually(ask: Callable[[], Any], otherwise: str, patience_s: float = PATIENCE_S) -> Any:
    end = time.monotonic() + patience_s
    while True:
        answer = ask()
        if answer:
            return answer
        require(time.monotonic() < end, otherwise)
        time.sleep(0.2)


def inspect(service: str) -> dict[str, Any]:
    container = compose("ps", "--all", "--quiet", service).stdout.split()[0]
    return dict(json.loads(run("docker", "inspect", container).stdout)[0])
