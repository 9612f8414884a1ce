"""The files that a configuration names, as `stockade check` looks at them: keys, certificates, secrets, directories.

They are there, they are what they should be, they belong together, and certificates are valid now. A file is read once,
up to a limit, and closed; none is changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from gateway.config.config import Config
from gateway.config.load import SECRET_MODE_FORBIDDEN
from gateway.host.shared_limits import password_in
from gateway.models.dial import bearer
from gateway.tools.check.finding import Finding
from ops.audit.copies.object_store import MISSING_EXTRA, installed, read_credentials
from ops.audit.errors import NoteError, StoreRefused, TrustPolicyError
from ops.audit.log.checkpoint import parse_skey, parse_vkey
from ops.audit.log.trust_policy import parse_trust_policy

EXPIRES_SOON = timedelta(days=30)
SECRET_BYTES_MIN = 32
FILE_BYTES_MAX = 1024 * 1024
CLIENTS = "clients"  # where `stockade init` puts what clients are handed
CLIENTS_MAX = 64


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


def _shared_limits(config: Config, now: datetime) -> Iterator[Finding]:
    shared = config.shared_limits
    if shared is None:
        return
    if shared.password_file is not None:
        try:
            password_in(shared.password_file)
        except (OSError, ValueError) as problem:
            yield Finding("error", "shared_limits.password_file", f"cannot be used ({problem})")
    yield from _peer_tls("shared_limits", shared.ca, shared.certificate, shared.key, now)


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


def _witnesses(config: Config, _now: datetime) -> Iterator[Finding]:
    witnesses = config.audit.witnesses
    if witnesses is None:
        return
    try:
        policy = parse_trust_policy(_read(witnesses.policy))
        own = parse_vkey(_read(config.audit.vkey).decode("ascii", "replace").strip())
    except (_Unusable, TrustPolicyError, NoteError) as problem:
        yield Finding("error", "audit.witnesses.policy", str(problem))
        return
    if own not in [log.key for log in policy.logs]:
        yield Finding("error", "audit.witnesses.policy", f"{witnesses.policy} has no line `log {own}`")
    if not policy.enough(name for name, witness in policy.witnesses.items() if witness.url):
        few = f"the witnesses that have a URL in {witnesses.policy} are fewer than the quorum {policy.quorum}"
        yield Finding("error", "audit.witnesses.policy", few)


def _replication(config: Config, _now: datetime) -> Iterator[Finding]:
    replication, where = config.audit.replication, "audit.replication"
    if replication is None:
        return
    if not installed():
        yield Finding("error", where, MISSING_EXTRA)
    if replication.credentials is not None:
        try:
            read_credentials(replication.credentials)
        except OSError as problem:
            yield Finding("error", f"{where}.credentials", f"{replication.credentials} ({problem.strerror})")
        except StoreRefused as problem:
            yield Finding("error", f"{where}.credentials", str(problem))
    if replication.unsafe_plaintext:
        yield Finding("warning", f"{where}.unsafe_plaintext", "the log can be read on the network")
    if replication.url.startswith("s3:") and replication.retention_min_ms is None:
        missing = "is missing: nobody looks whether the bucket locks what it is given"
        yield Finding("warning", f"{where}.retention_min", missing)


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


def _private_keys(config: Config, _now: datetime) -> Iterator[Finding]:
    """Secrets that the gateway does not need, beside what it does: whoever reads one can do what it is for."""
    named = [("policy.public_key", config.policy.public_key, "sign a policy")]
    if config.tls is not None and config.tls.client_ca is not None:
        named.append(("tls.client_ca", config.tls.client_ca, "issue certificates that the gateway accepts"))
    named += [("bundles.trusted_keys", path, "sign a model") for path in config.bundles.trusted_keys]
    beside = [(where, public.with_suffix(".key"), what) for where, public, what in named]
    clients = sorted((config.policy.file.parent / CLIENTS).glob("*.key"))[:CLIENTS_MAX]
    for where, key, what in (*beside, *((str(key), key, "call as this client") for key in clients)):
        try:
            mode = stat.S_IMODE(key.stat().st_mode)
        except OSError:
            continue  # it is elsewhere, as it should be
        if mode & SECRET_MODE_FORBIDDEN:
            advice = f"move it off this machine, or run `chmod 600 {key}`"
            yield Finding("warning", where, f"{key} has mode {mode:04o}: others can {what}; {advice}")


def _bundles(config: Config, _now: datetime) -> Iterator[Finding]:
    if not config.bundles.directory.is_dir():
        yield Finding("error", "bundles.directory", f"{config.bundles.directory} is not a directory")
    for path in config.bundles.trusted_keys:
        try:
            _require_bundle_key(path)
        except _Unusable as problem:
            yield Finding("error", "bundles.trusted_keys", str(problem))


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


FILES = (
    _shared_limits,
    _tls,
    _upstream,
    _upstream_tls,
    _log_key,
    _witnesses,
    _replication,
    _secrets,
    _private_keys,
    _bundles,
    _directories,
)
