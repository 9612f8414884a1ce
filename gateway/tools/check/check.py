"""`stockade check`: everything that can be known about a configuration without starting it.

`check` loads both files as the gateway would, then looks at what they name: `check_files` at keys, certificates and
directories, `check_models` at the bundles and at what the policy says of them. It reports all it finds, changes
nothing, opens no port, asks nobody, and runs no model. What would stop a start or a request is an error; what deserves
a look is a warning. Here are the order, what the configuration says by itself, and how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from gateway.config.config import Config
from gateway.config.document import FileRejected
from gateway.config.load import load_config
from gateway.host.shared_limits import MISSING_EXTRA as MISSING_REDIS
from gateway.host.shared_limits import installed as redis_installed
from gateway.models.compile import PREDICTION
from gateway.policy.load import load_policy
from gateway.policy.policy import Policy
from gateway.request.acknowledgement import require_places
from gateway.request.traces import MISSING_EXTRA
from gateway.tools.check.files import EXPIRES_SOON, FILES
from gateway.tools.check.finding import Finding
from gateway.tools.check.models import bundle_findings, policy_and_bundles
from ops.process.tracing import installed


@dataclass(frozen=True, slots=True)
class Report:
    """All that `check` found. The effective files are None when they could not be loaded."""

    file: Path
    findings: tuple[Finding, ...]
    config: Config | None
    policy: Policy | None

    @property
    def ok(self) -> bool:
        """Whether a gateway would start from it, and answer."""
        return not any(finding.level == "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """For machines. Holds no secret."""
        return {
            "file": str(self.file),
            "ok": self.ok,
            "findings": [{"level": each.level, "where": each.where, "problem": each.problem} for each in self.findings],
            "config_digest": self.config.digest if self.config else None,
            "policy_digest": self.policy.digest if self.policy else None,
            "policy_revision": self.policy.revision if self.policy else None,
            "config": self.config.masked() if self.config else None,
            "policy": self.policy.masked() if self.policy else None,
        }


def check(path: Path, now: datetime, profile: str | None = None) -> Report:
    """Check stockade.yaml at `path` and all it names. `now` is aware. Never raises for what the files hold."""
    try:
        config = load_config(path, profile)
    except FileRejected as rejected:
        return Report(path, tuple(Finding("error", str(path), line) for line in rejected.lines), None, None)
    findings = [finding for look in (*SETTINGS, *FILES) for finding in look(config, now)]
    bundles, broken = bundle_findings(config)
    findings += broken
    try:
        policy = load_policy(config.policy.file, config.policy.public_key)
    except FileRejected as rejected:
        findings += [Finding("error", str(config.policy.file), line) for line in rejected.lines]
        return Report(path, tuple(findings), config, None)
    findings += _policy_findings(policy, config.policy.file, now)
    findings += [*_places(policy, config), *_memories(policy, config)]
    findings += policy_and_bundles(policy, config, bundles, now)
    return Report(path, tuple(findings), config, policy)


def render(report: Report, console: Console) -> None:
    """The report for people: findings, then what is in force. Nothing is wrapped: it will be copied."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    for finding in report.findings:
        colour = "red" if finding.level == "error" else "yellow"
        text = finding.problem if finding.problem.startswith(finding.where) else f"{finding.where}: {finding.problem}"
        say(f"[{colour}]{finding.level}[/{colour}] {escape(text)}")
    if report.config is not None:
        say(f"\n[bold]{escape(str(report.file))}[/bold] (secrets are paths, never shown)")
        rows = list(_flat(report.config.masked()))
        width = max(len(key) for key, _ in rows)
        for key, value in rows:
            say(escape(f"{key:<{width}}  {value}"))
        say(f"\nconfig digest  {report.config.digest}")
    if report.policy is not None:
        say(f"policy digest  {report.policy.digest}  revision {report.policy.revision}")
        say(escape(f"principals     {', '.join(list(report.policy.principals)[:12])}"))
    say("[green]ok[/green]" if report.ok else "[red]not ok: a gateway would not start from this, or not answer[/red]")


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        yield at, ", ".join(str(item) for item in value)
    else:
        yield at, "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _unprotected(config: Config, _now: datetime) -> Iterator[Finding]:
    if config.unsafe_unprotected:
        yield Finding("warning", "unsafe_unprotected", "every protection is off, the audit log included")


def _workers(config: Config, _now: datetime) -> Iterator[Finding]:
    if config.workers > 1 and config.shared_limits is None:
        problem = f"limits count in each of the {config.workers} workers, which together admit that many times as much"
        yield Finding("warning", "workers", f"{problem}; `shared_limits` makes them one")


def _shared_limits(config: Config, _now: datetime) -> Iterator[Finding]:
    shared = config.shared_limits
    if shared is None:
        return
    if not redis_installed():
        yield Finding("error", "shared_limits", MISSING_REDIS)
    if shared.unsafe_redis_plaintext:
        problem = "limits and the password can be read, and changed, on the network"
        yield Finding("warning", "shared_limits.unsafe_redis_plaintext", problem)
    if shared.password_file is None and not shared.url.startswith("unix:"):
        problem = "is missing: whoever reaches that Redis can set every limit back"
        yield Finding("warning", "shared_limits.password_file", problem)


def _places(policy: Policy, config: Config) -> Iterator[Finding]:
    try:
        require_places(policy, config.audit)
    except FileRejected as rejected:
        yield from (Finding("error", str(config.policy.file), line) for line in rejected.lines)


def _memories(policy: Policy, config: Config) -> Iterator[Finding]:
    """What is known of accounts is a worker's: no store has it for all of them."""
    if config.workers == 1:
        return
    more = f"a caller connected to each of the {config.workers} workers has {config.workers} times the answers"
    problem = f"{more} before this acts; take `workers: 1`, and more gateways with affinity where one is not enough"
    for name, model in policy.models.items():
        for part in ("watch", "budget"):
            if getattr(model, part) is not None:
                yield Finding("warning", f"models.{name}.{part}", problem)


def _metrics(config: Config, _now: datetime) -> Iterator[Finding]:
    if config.listen.unsafe_metrics_plaintext:
        problem = "the metrics page has no credentials: whoever reaches listen.metrics can read it"
        yield Finding("warning", "listen.unsafe_metrics_plaintext", problem)


def _tracing(config: Config, _now: datetime) -> Iterator[Finding]:
    if config.tracing is not None and config.tracing.unsafe_otlp_plaintext:
        yield Finding("warning", "tracing.unsafe_otlp_plaintext", "traces can be read on the network")
    if config.tracing is not None and not installed():
        yield Finding("error", "tracing", MISSING_EXTRA)


SETTINGS = (_unprotected, _workers, _shared_limits, _metrics, _tracing)


def _policy_findings(policy: Policy, file: Path, now: datetime) -> Iterator[Finding]:
    for index, method in enumerate(policy.unsafe_public_methods):
        yield Finding("warning", f"unsafe_public_methods[{index}]", f"anybody can call {method} without a credential")
    yield from _undone_hardening(policy)
    for principal, key in policy.api_keys():
        where = f"principals.{principal}"
        expires = datetime.fromtimestamp(key.expires_ns // 1_000_000_000, UTC)
        if key.revoked:
            continue
        if now >= expires:
            yield Finding("warning", where, f"API key {key.id} expired on {expires:%Y-%m-%d}; replace or remove it")
        elif now + EXPIRES_SOON > expires:
            yield Finding("warning", where, f"API key {key.id} expires on {expires:%Y-%m-%d}; add its successor")
    for name, issuer in policy.issuers.items():
        if issuer.jwks_url is None:
            keys = file.parent / issuer.url_or_file
            if not keys.is_file():
                yield Finding("error", f"issuers.{name}.url_or_file", f"{keys} is not a file")


def _undone_hardening(policy: Policy) -> Iterator[Finding]:
    """What is given away beside the hardened output: from logits or latents the rest can be worked out."""
    for name, model in policy.models.items():
        if model.harden is None:
            continue
        others = [output for output in model.outputs or () if output != PREDICTION]
        if model.outputs is None or others:
            given = ", ".join(others) or "all of the bundle's, logits, latents and energies included"
            problem = f"`harden` changes {PREDICTION} alone, and clients also get other outputs ({given})"
            yield Finding("warning", f"models.{name}.outputs", f"{problem}; write `outputs: [{PREDICTION}]`")
