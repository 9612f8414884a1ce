"""`stockade check`: everything that can be known about a configuration without starting it.

`check` loads both files as the gateway would, then looks at what they name: files are there, keys are keys and belong
together, certificates are valid now and fit their key. It reports all it finds, changes nothing, opens no port, and
loads no bundle. What would stop a start or a request is an error; what deserves a look is a warning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from rich.console import Console
from rich.markup import escape

from gateway.compile import PREDICTION
from gateway.config import Config, load_config
from gateway.dial import bearer
from gateway.document import FileRejected, PolicyRejected
from gateway.model_set import MODELS, read_models
from gateway.place import place_of
from gateway.policy import Policy, load_policy
from gateway.shared_limits import MISSING_EXTRA as MISSING_REDIS
from gateway.shared_limits import installed as redis_installed
from gateway.shared_limits import password_in
from gateway.traces import MISSING_EXTRA
from ops.audit.checkpoint import parse_skey, parse_vkey
from ops.audit.errors import NoteError
from ops.tracing import installed

__all__ = ["Finding", "Report", "check", "render"]

EXPIRES_SOON = timedelta(days=30)
SECRET_BYTES_MIN = 32
FILE_BYTES_MAX = 1024 * 1024

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or deserves a look. `where` is a key of the configuration, or a file."""

    level: Level
    where: str
    problem: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that `check` found. The effective files are None when they could not be loaded."""

    file: Path
    findings: tuple[Finding, ...]
    config: Config | None
    policy: Policy | None

    @property
    def ok(self) -> bool:
        """Whether a gateway would start from it."""
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


def check(path: Path, now: datetime) -> Report:
    """Check stockade.yaml at `path` and all it names. `now` is aware. Never raises for what the files hold."""
    try:
        config = load_config(path)
    except FileRejected as rejected:
        return Report(path, tuple(Finding("error", str(path), line) for line in rejected.lines), None, None)
    findings = [finding for look in _LOOKS for finding in look(config, now)]
    try:
        policy = load_policy(config.policy.file, config.policy.public_key)
    except FileRejected as rejected:
        findings += [Finding("error", str(config.policy.file), line) for line in rejected.lines]
        return Report(path, tuple(findings), config, None)
    findings += _policy_findings(policy, config.policy.file, now)
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
    say("[green]ok[/green]" if report.ok else "[red]not ok: a gateway would not start from this[/red]")


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        yield at, ", ".join(str(item) for item in value)
    else:
        yield at, "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class _Unusable(Exception):
    """A file is not what it should be. The message is the finding."""


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as problem:
        raise _Unusable(f"{path} cannot be read ({problem.strerror})") from None
    if len(data) > FILE_BYTES_MAX:
        raise _Unusable(f"{path} is larger than {FILE_BYTES_MAX} bytes, so it is not a key or a certificate")
    return data


def _unprotected(config: Config, _now: datetime) -> Iterator[Finding]:
    if config.unsafe_unprotected:
        yield Finding("warning", "unsafe_unprotected", "every protection is off, the audit log included")


def _workers(config: Config, _now: datetime) -> Iterator[Finding]:
    if config.workers > 1 and config.shared_limits is None:
        problem = f"limits count in each of the {config.workers} workers, which together admit that many times as much"
        yield Finding("warning", "workers", f"{problem}; `shared_limits` makes them one")


def _shared_limits(config: Config, now: datetime) -> Iterator[Finding]:
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
    if shared.password_file is not None:
        try:
            password_in(shared.password_file)
        except (OSError, ValueError) as problem:
            yield Finding("error", "shared_limits.password_file", f"cannot be used ({problem})")
    yield from _peer_tls("shared_limits", shared.ca, shared.certificate, shared.key, now)


def _metrics(config: Config, _now: datetime) -> Iterator[Finding]:
    if config.listen.unsafe_metrics_plaintext:
        problem = "the metrics page has no credentials: whoever reaches listen.metrics can read it"
        yield Finding("warning", "listen.unsafe_metrics_plaintext", problem)


def _tracing(config: Config, _now: datetime) -> Iterator[Finding]:
    if config.tracing is not None and config.tracing.unsafe_otlp_plaintext:
        yield Finding("warning", "tracing.unsafe_otlp_plaintext", "traces can be read on the network")
    if config.tracing is not None and not installed():
        yield Finding("error", "tracing", MISSING_EXTRA)


def _tls(config: Config, now: datetime) -> Iterator[Finding]:
    if config.tls is None:
        yield Finding("warning", "unsafe_plaintext", "credentials and inputs can be read on the network")
        return
    tls = config.tls
    try:
        certificates = _certificates(tls.certificate)
    except _Unusable as problem:
        yield Finding("error", "tls.certificate", str(problem))
        certificates = []
    if certificates:
        yield from _validity("tls.certificate", certificates[0], now)
        try:
            _require_pair(tls.key, certificates[0])
        except _Unusable as problem:
            yield Finding("error", "tls.key", str(problem))
    if tls.client_ca is not None:
        try:
            authorities = _certificates(tls.client_ca)
        except _Unusable as problem:
            yield Finding("error", "tls.client_ca", str(problem))
            return
        for authority in authorities:
            yield from _validity("tls.client_ca", authority, now)


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise _Unusable(f"{path} holds no certificate in PEM") from None


def _validity(where: str, certificate: x509.Certificate, now: datetime) -> Iterator[Finding]:
    name = certificate.subject.rfc4514_string()
    expires = certificate.not_valid_after_utc
    if now < certificate.not_valid_before_utc:
        yield Finding(
            "error", where, f"{name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        )
    elif now >= expires:
        yield Finding("error", where, f"{name} expired on {expires:%Y-%m-%d}; renew it")
    elif now + EXPIRES_SOON > expires:
        yield Finding("warning", where, f"{name} expires on {expires:%Y-%m-%d}; renew it soon")


def _upstream(config: Config, _now: datetime) -> Iterator[Finding]:
    oip = config.engine.oip
    if oip is None:
        return
    if oip.unsafe_plaintext:
        yield Finding("warning", "engine.oip.unsafe_plaintext", "inputs and answers can be read and changed on the way")
    if oip.token is not None:
        try:
            bearer(oip.token)
        except OSError as problem:
            yield Finding("error", "engine.oip.token", f"{oip.token} cannot be used ({problem.strerror or problem})")


def _upstream_tls(config: Config, now: datetime) -> Iterator[Finding]:
    """What the servers that run the models are trusted by, and what they are shown."""
    tls = config.engine.oip.tls if config.engine.oip is not None else None
    if tls is not None:
        yield from _peer_tls("engine.oip.tls", tls.ca, tls.certificate, tls.key, now)


def _peer_tls(
    at: str, ca: Path | None, certificate: Path | None, certificate_key: Path | None, now: datetime
) -> Iterator[Finding]:
    """Look at what a server that we call is trusted by, and at what it is shown."""
    for where, path, key in ((f"{at}.ca", ca, None), (f"{at}.certificate", certificate, certificate_key)):
        if path is None:
            continue
        try:
            certificates = _certificates(path)
            if key is not None:
                _require_pair(key, certificates[0], f"{at}.certificate")
        except _Unusable as problem:
            yield Finding("error", where, str(problem))
        else:
            for each in certificates:
                yield from _validity(where, each, now)


def _require_pair(path: Path, certificate: x509.Certificate, of: str = "tls.certificate") -> None:
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _Unusable(f"{path} is not an unencrypted private key in PEM") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise _Unusable(f"{path} is not the key of {of}")


def _log_key(config: Config, _now: datetime) -> Iterator[Finding]:
    audit = config.audit
    try:
        vkey = parse_vkey(_read(audit.vkey).decode("ascii", "replace").strip())
    except (_Unusable, NoteError) as problem:
        yield Finding("error", "audit.vkey", str(problem))
        return
    if audit.recorder == "external" and not os.access(audit.signing_key, os.R_OK):
        if vkey.name != audit.origin:  # the private half is the recorder's alone, as it should be
            yield Finding("error", "audit.origin", f"is not {vkey.name}, whose key audit.vkey is")
        return
    try:
        signer = parse_skey(_read(audit.signing_key).decode("ascii", "replace").strip())
    except (_Unusable, NoteError) as problem:
        yield Finding("error", "audit.signing_key", str(problem))
        return
    if signer.name != audit.origin:
        yield Finding("error", "audit.origin", f"is not {signer.name}, whose key audit.signing_key is")
    if vkey != signer.verifier:
        yield Finding("error", "audit.vkey", f"{audit.vkey} is not the public half of audit.signing_key")


def _secrets(config: Config, _now: datetime) -> Iterator[Finding]:
    for where, path, exact in (
        ("audit.master_key", config.audit.master_key, True),
        ("policy.pepper", config.policy.pepper, False),
    ):
        try:
            size = len(_read(path))
        except _Unusable as problem:
            yield Finding("error", where, str(problem))
            continue
        if size < SECRET_BYTES_MIN or (exact and size != SECRET_BYTES_MIN):
            wanted = "exactly" if exact else "at least"
            yield Finding(
                "error", where, f"{path} holds {size} bytes; it needs {wanted} {SECRET_BYTES_MIN} random ones"
            )


def _bundles(config: Config, _now: datetime) -> Iterator[Finding]:
    if not config.bundles.directory.is_dir():
        yield Finding("error", "bundles.directory", f"{config.bundles.directory} is not a directory")
    for path in config.bundles.trusted_keys:
        try:
            _require_bundle_key(path)
        except _Unusable as problem:
            yield Finding("error", "bundles.trusted_keys", str(problem))


def _out_of_service(config: Config, _now: datetime) -> Iterator[Finding]:
    file = place_of(config).memory.with_name(MODELS)
    try:
        unloaded = sorted(read_models(file).unloaded)
    except PolicyRejected as problem:
        yield Finding("error", "audit.state_directory", str(problem))
        return
    for name, version in unloaded:
        out = f"somebody took {name} version {version} out of service; it answers once it is loaded again"
        yield Finding("warning", "bundles.directory", out)


def _require_bundle_key(path: Path) -> None:
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        raise _Unusable(f"{path} is not a public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _Unusable(f"{path} is not an ECDSA P-256 public key, which bundles are signed with")


def _directories(config: Config, _now: datetime) -> Iterator[Finding]:
    """They are made at the first start; what they stand in must be there."""
    places = (("audit.directory", config.audit.directory), ("audit.state_directory", config.audit.state_directory))
    for where, path in (*places, ("audit.key_database", config.audit.key_database), ("state_dir", config.state_dir)):
        if not path.parent.is_dir():
            yield Finding("error", where, f"{path.parent} is not a directory")
    log, state = config.audit.directory.parent, config.audit.state_directory.parent
    if log.is_dir() and state.is_dir() and log.stat().st_dev != state.stat().st_dev:
        yield Finding(
            "error", "audit.state_directory", "is on another filesystem than audit.directory; keep them together"
        )


_LOOKS = (
    _unprotected,
    _workers,
    _shared_limits,
    _metrics,
    _tracing,
    _tls,
    _upstream,
    _upstream_tls,
    _log_key,
    _secrets,
    _bundles,
    _out_of_service,
    _directories,
)


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
