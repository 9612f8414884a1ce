"""A gateway on this machine, started from its directory and stopped again: for the demo, and for scripts."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STOP_TIMEOUT_S = 60.0
SCRAPE_TIMEOUT_S = 10.0


class NotServing(Exception):
    """The gateway ended instead of serving. The message is the end of its log."""


@dataclass(frozen=True, slots=True)
class Local:
    """A running gateway: its directory, and the addresses it announced."""

    directory: Path
    addresses: dict[str, Any]

    def key(self, client: str) -> str:
        """Return the API key of a client that `stockade init` made."""
        return (self.directory / "clients" / f"{client}.key").read_text().strip()

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Return the gateway's metrics as they are now: (name, labels) to value."""
        url = f"http://{self.addresses['metrics']}/metrics"
        with urllib.request.urlopen(url, timeout=SCRAPE_TIMEOUT_S) as page:
            text = page.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Local]:
    """Run `stockade serve` until the block ends, then stop it as an operator would, with SIGTERM.

    Raises:
        NotServing: it ended before it was ready, or did not end well.
    """
    log = directory / "gateway.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gateway", "serve", str(directory / "stockade.yaml")],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            assert process.stdout is not None, "a pipe was asked for"
            line = process.stdout.readline()
            if not line:
                raise NotServing(tail(log))
            yield Local(directory, json.loads(line))
        finally:
            process.terminate()
            try:
                code = process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            assert process.stdout is not None, "a pipe was asked for"
            process.stdout.close()
    if code != 0:
        raise NotServing(f"it ended with exit code {code}:\n{tail(log)}")


def tail(log: Path) -> str:
    """Return the end of a log."""
    return "\n".join(log.read_text().splitlines()[-10:])
