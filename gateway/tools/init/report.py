"""What `stockade init` has made, for people and for machines: where things are, never what is in the secret ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from gateway.config.values import is_loopback
from gateway.tools.init.files import UPSTREAM_CA

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from rich.console import Console

    from gateway.tools.init.files import Upstream


@dataclass(frozen=True, slots=True)
class InitReport:
    """What was made: where things are, never what is in the secret ones."""

    directory: Path
    config: Path
    policy: Path
    origin: str
    vkey: str
    api_keys: Mapping[str, Path]
    certificates_expire: datetime
    api_keys_expire: datetime
    bundles: tuple[str, ...]
    files: tuple[Path, ...]
    upstream: Upstream | None = None

    def as_json(self) -> dict[str, Any]:
        """For machines. Holds no secret."""
        return {
            "directory": str(self.directory),
            "config": str(self.config),
            "policy": str(self.policy),
            "origin": self.origin,
            "vkey": self.vkey,
            "api_keys": {name: str(path) for name, path in self.api_keys.items()},
            "certificates_expire": self.certificates_expire.isoformat(),
            "api_keys_expire": self.api_keys_expire.isoformat(),
            "bundles": list(self.bundles),
            "files": [str(path) for path in self.files],
        }


def render(report: InitReport, console: Console) -> None:
    """The report for people: what is where, what to keep, what to do next. Nothing is wrapped: it will be copied."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    say(f"[green]made[/green] {escape(str(report.directory))}")
    rows: list[tuple[str, object, str]] = [
        (f"API key of {name}", path, f"  until {report.api_keys_expire:%Y-%m-%d}")
        for name, path in report.api_keys.items()
    ]
    for name in ("kiosk-7", "operator"):
        where = report.directory / "clients" / f"{name}.tls.crt"
        rows.append((f"certificate of {name}", where, f"  until {report.certificates_expire:%Y-%m-%d}"))
    rows.append(("models", ", ".join(report.bundles) or "none: copy signed ones to bundles/", ""))
    rows.append(("log, for who verifies", report.vkey, ""))
    for name, value, until in rows:
        say(f"{name:<24}{escape(str(value))}{until}")
    say("Not needed here once it runs, so keep them elsewhere: tls/ca.key, keys/policy.key")
    if report.upstream is not None:
        there = report.upstream
        what = f"--server {there.address} --model {there.model} --as {there.model}/{there.version}"
        options = f"--out {report.directory / 'bundles'} --signing-key {report.directory / 'keys/bundles.key'}"
        if not is_loopback(there.address):
            options += f" --ca {report.directory / UPSTREAM_CA}"
        say(f"First: [bold]stockade models adopt {escape(f'{what} {options}')}[/bold]")
    say(f"Next: [bold]stockade serve {escape(str(report.config))}[/bold]")
