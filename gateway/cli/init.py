"""`stockade init`: a working, secure directory that a gateway can be started from.

Rules: everything is built beside the target and renamed into place, so there is a whole directory or none; a directory
that holds something is not touched; directories have mode 0700, secrets 0600; what is written is synced before the
rename; no secret is in the report. Time and randomness are handed in.

Layout: `stockade.yaml`, `policy.yaml` and its signature; `tls/` (authority, server), `keys/` (log, policy, pepper,
payload master key, bundle keys), `clients/` (what is handed to clients), `bundles/`, and empty `log/`, `recorder/` and
`state/`. Move `tls/ca.key`, `keys/policy.key` and `keys/bundles.key` off the machine: the gateway does not need them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from rich.console import Console
from rich.markup import escape

from gateway.auth.api_key import key_mac, new_api_key
from gateway.cli.pki import Credential, RandomBytes, new_authority, new_key, private_pem
from gateway.config.values import is_host, is_loopback, valid_address
from ops.audit.checkpoint import SignerKey
from ops.audit.durable import sync_directory, sync_file

__all__ = ["RELEASE_KEY", "InitRefused", "InitReport", "Ports", "Upstream", "init_directory", "issue_api_key", "render"]

API_KEY_DAYS = 365
SECRET_BYTES = 32
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  no name that a client could use
RELEASE_KEY = "stockade-release.pub"
MODEL, SERVED = "kiosk", "1"  # what rules.yaml serves
TRUST_DOMAIN = "stockade.local"
KIOSK_SPIFFE = f"spiffe://{TRUST_DOMAIN}/kiosk/7"
OPERATOR_SPIFFE = f"spiffe://{TRUST_DOMAIN}/operator"
API_KEY_PRINCIPALS = ("kiosk-7", "batch-1")
DIRECTORIES = ("tls", "keys", "clients", "bundles", "log", "recorder", "state")
UPSTREAM_CA = "tls/upstream-ca.crt"
UPSTREAM_TRUST = f"    tls: {{ca: {UPSTREAM_CA}}}  # who signed its certificate, PEM: put it there\n"
_MODEL = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


class InitRefused(Exception):
    """Nothing was made. The message says why, for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that the configuration names; 0 takes any free one at each start."""

    data: int = 8001
    metrics: int = 8002
    admin: int = 8003
    data_mtls: int = 8004

    @classmethod
    def from_first(cls, port: int) -> Ports:
        """Four in a row, as the default ones are; from 0, any free ones."""
        return cls(port, port + 1, port + 2, port + 3) if port else cls(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server of the Open Inference Protocol that runs the one model of the policy: its bundle's name and version."""

    address: str
    model: str
    version: str = "1"


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


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    secret: bool = False


def init_directory(
    path: Path,
    *,
    now: datetime,
    random_bytes: RandomBytes,
    hosts: Sequence[str] = (),
    listen_host: str = "127.0.0.1",
    ports: Ports | None = None,
    bundles: Path | None = None,
    upstream: Upstream | None = None,
) -> InitReport:
    """Make `path`, with everything a gateway needs.

    Args:
        path: a directory that does not exist yet or is empty.
        now: aware, UTC; certificates and keys are valid from here.
        random_bytes: `os.urandom`, or another source of that quality.
        hosts: names and addresses clients will use, beside localhost; they go into the server's certificate.
        listen_host: where the data ports listen, also a name in the certificate; metrics and admin stay on loopback.
        ports: what the configuration names.
        bundles: a directory of signed models with `stockade-release.pub`, the key that signed them and is trusted; what
            the policy serves is copied.
        upstream: who runs the model, and what it is called here; instead of `bundles`.

    Raises:
        InitRefused: the directory holds something, or a host or an address is none.
        OSError: the disk said no; nothing is left behind.
    """
    names = [*hosts] if listen_host in EVERYWHERE else [*hosts, listen_host]
    _require_sensible(names, upstream)
    target = path.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InitRefused(f"{path} holds something already; name a new directory, so that no key is overwritten")
    now = now.replace(microsecond=0)
    origin = f"{TRUST_DOMAIN}/{random_bytes(4).hex()}"
    signer = SignerKey(origin, random_bytes(SECRET_BYTES))
    bundles = bundles if upstream is None else None
    release_key = bundles / RELEASE_KEY if bundles and (bundles / RELEASE_KEY).exists() else None
    contents: dict[str, _File] = {}
    contents |= _log_keys(signer)
    contents |= _secrets(random_bytes)
    contents |= _bundle_keys(random_bytes, release_key)
    certificates, expire = _certificates([*dict.fromkeys([*LOCAL_HOSTS, *names])], now, random_bytes)
    contents |= certificates
    pepper, expire_keys = contents["keys/pepper"].data, _api_keys_expire(now)
    api_keys = {name: issue_api_key(pepper, f"{name}-a", expire_keys, random_bytes) for name in API_KEY_PRINCIPALS}
    for name, (key, _) in api_keys.items():
        contents[f"clients/{name}.key"] = _File(f"{key}\n".encode(), secret=True)
    contents["stockade.yaml"] = _config(origin, listen_host, ports or Ports(), upstream)
    entries = {name.replace("-", "_"): entry for name, (_, entry) in api_keys.items()}
    contents |= _signed_policy(entries, random_bytes, upstream)
    copied = tuple(_signed_models(bundles)) if bundles and release_key else ()
    _write_whole(target, contents, copied, random_bytes(8).hex())
    return InitReport(
        directory=target,
        config=target / "stockade.yaml",
        policy=target / "policy.yaml",
        origin=origin,
        vkey=str(signer.verifier),
        api_keys={name: target / "clients" / f"{name}.key" for name in api_keys},
        certificates_expire=expire,
        api_keys_expire=expire_keys,
        bundles=tuple(f"{model.parent.name}/{model.name}" for model in copied),
        files=tuple(target / name for name in sorted(contents)),
        upstream=upstream,
    )


def _require_sensible(names: Sequence[str], upstream: Upstream | None) -> None:
    for host in names:
        if not is_host(host):
            raise InitRefused(f"{host!r} is not a host name or an address; give names such as gateway.example.org")
    if upstream is None:
        return
    if not (_MODEL.fullmatch(upstream.model) and _VERSION.fullmatch(upstream.version)):
        advice = "give it lower-case letters, digits, _ and -, such as iris or iris/2"
        raise InitRefused(f"{upstream.model}/{upstream.version} cannot be a model's name here; {advice}")
    try:
        valid_address(upstream.address)
    except ValueError as problem:
        raise InitRefused(str(problem)) from None


def issue_api_key(pepper: bytes, key_id: str, expires: datetime, random_bytes: RandomBytes) -> tuple[str, str]:
    """A new API key and its entry for `api_keys` in the policy. The key is shown once and kept nowhere.

    Raises:
        ValueError: `key_id` cannot be one.
    """
    key = new_api_key(random_bytes(SECRET_BYTES), key_id)
    return key, f"{{id: {key_id}, hmac: {key_mac(pepper, key).hex()}, expires: {expires:%Y-%m-%d}}}"


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


def _log_keys(signer: SignerKey) -> dict[str, _File]:
    return {
        "keys/log.key": _File(f"{signer.secret()}\n".encode(), secret=True),
        "keys/log.vkey": _File(f"{signer.verifier}\n".encode()),
    }


def _secrets(random_bytes: RandomBytes) -> dict[str, _File]:
    return {
        "keys/pepper": _File(random_bytes(SECRET_BYTES), secret=True),
        "keys/payload-master.key": _File(random_bytes(SECRET_BYTES), secret=True),
    }


def _bundle_keys(random_bytes: RandomBytes, release_key: Path | None) -> dict[str, _File]:
    """Trust in whoever signed the models that are copied; without any, a key pair to sign your own with."""
    if release_key:
        return {"keys/bundles.pub": _File(release_key.read_bytes())}
    key = new_key(random_bytes)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {"keys/bundles.key": _File(private_pem(key), secret=True), "keys/bundles.pub": _File(public)}


def _certificates(hosts: Sequence[str], now: datetime, random_bytes: RandomBytes) -> tuple[dict[str, _File], datetime]:
    """Files, and when the first of them expires."""
    authority = new_authority(f"Stockade private authority {random_bytes(4).hex()}", now, random_bytes)
    issued: dict[str, Credential] = {
        "tls/ca": authority.credential,
        "tls/server": authority.server(hosts),
        "clients/kiosk-7.tls": authority.client("kiosk-7", KIOSK_SPIFFE),
        "clients/operator.tls": authority.client("operator", OPERATOR_SPIFFE),
    }
    contents: dict[str, _File] = {}
    for name, credential in issued.items():
        contents[f"{name}.crt"] = _File(credential.certificate)
        contents[f"{name}.key"] = _File(credential.key, secret=True)
    return contents, min(credential.expires for credential in issued.values())


def _template(name: str, **values: str) -> bytes:
    text = files("gateway").joinpath("templates", name).read_text(encoding="utf-8")
    return Template(text).substitute(values).encode()


def _config(origin: str, listen_host: str, ports: Ports, upstream: Upstream | None) -> _File:
    host = f"[{listen_host}]" if ":" in listen_host else listen_host
    text = _template(
        "stockade.yaml",
        origin=origin,
        data=f"{host}:{ports.data}",
        data_mtls=f"{host}:{ports.data_mtls}",
        metrics=f"127.0.0.1:{ports.metrics}",
        admin=f"127.0.0.1:{ports.admin}",
        engine=_engine(upstream),
    )
    return _File(text)


def _engine(upstream: Upstream | None) -> str:
    if upstream is None:
        return _template("engine.yaml").decode()
    trust = "" if is_loopback(upstream.address) else UPSTREAM_TRUST
    return _template("engine-upstream.yaml", address=upstream.address, trust=trust).decode()


def _signed_policy(
    api_keys: Mapping[str, str], random_bytes: RandomBytes, upstream: Upstream | None
) -> dict[str, _File]:
    if upstream is None:
        model, rules = MODEL, _template("rules.yaml")
    else:
        model, rules = upstream.model, _template("rules-upstream.yaml", model=upstream.model, version=upstream.version)
    values = {"kiosk_spiffe": KIOSK_SPIFFE, "operator_spiffe": OPERATOR_SPIFFE, **api_keys}
    policy = _template("policy.yaml", model=model, rules=rules.decode(), **values)
    key = Ed25519PrivateKey.from_private_bytes(random_bytes(SECRET_BYTES))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "policy.yaml": _File(policy),
        "policy.yaml.sig": _File(key.sign(policy)),
        "keys/policy.key": _File(private, secret=True),
        "keys/policy.pub": _File(public),
    }


def _api_keys_expire(now: datetime) -> datetime:
    return (now + timedelta(days=API_KEY_DAYS)).replace(hour=0, minute=0, second=0)


def _signed_models(bundles: Path) -> Iterator[Path]:
    """The version of the model that the policy serves, where it is: a directory that holds a manifest."""
    return (manifest.parent for manifest in bundles.glob(f"{MODEL}/{SERVED}/manifest.json"))


def _write_whole(target: Path, contents: Mapping[str, _File], models: Sequence[Path], suffix: str) -> None:
    """Write everything beside the target, sync it, and rename it into place."""
    beside = target.with_name(f".{target.name}.{suffix}")
    beside.mkdir(mode=0o700, parents=True)
    try:
        for name in DIRECTORIES:
            (beside / name).mkdir(mode=0o700)
        for name, file in contents.items():
            _write(beside / name, file)
        for model in models:
            shutil.copytree(model, beside / "bundles" / model.parent.name / model.name)
        for directory, _, names in os.walk(beside):
            for name in names:
                sync_file(Path(directory, name))
            sync_directory(Path(directory))
        beside.rename(target)  # from here on the directory is whole
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_directory(target.parent)


def _write(path: Path, file: _File) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if file.secret else 0o644)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(file.data)
