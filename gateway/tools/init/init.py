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
from datetime import datetime, timedelta
from pathlib import Path

from gateway.config.values import is_host, valid_address
from gateway.tools.init.files import (
    API_KEY_PRINCIPALS,
    MODEL,
    SECRET_BYTES,
    SERVED,
    TRUST_DOMAIN,
    File,
    Ports,
    Upstream,
    bundle_keys,
    certificates,
    client_keys,
    config_file,
    log_keys,
    secrets,
    signed_policy,
)
from gateway.tools.init.pki import RandomBytes
from gateway.tools.init.report import InitReport
from ops.audit.log.checkpoint import SignerKey
from ops.process.durable import sync_directory, sync_file

API_KEY_DAYS = 365
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  no name that a client could use
RELEASE_KEY = "stockade-release.pub"
DIRECTORIES = ("tls", "keys", "clients", "bundles", "log", "recorder", "state")
_MODEL = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


class InitRefused(Exception):
    """Nothing was made. The message says why, for the person at the terminal."""


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
    contents = log_keys(signer) | secrets(random_bytes) | bundle_keys(random_bytes, release_key)
    issued, expire = certificates([*dict.fromkeys([*LOCAL_HOSTS, *names])], now, random_bytes)
    expire_keys = (now + timedelta(days=API_KEY_DAYS)).replace(hour=0, minute=0, second=0)
    key_files, entries = client_keys(contents["keys/pepper"].data, expire_keys, random_bytes)
    contents |= issued | key_files | {"stockade.yaml": config_file(origin, listen_host, ports or Ports(), upstream)}
    contents |= signed_policy(entries, random_bytes, upstream)
    copied = tuple(_signed_models(bundles)) if bundles and release_key else ()
    _write_whole(target, contents, copied, random_bytes(8).hex())
    return InitReport(
        directory=target,
        config=target / "stockade.yaml",
        policy=target / "policy.yaml",
        origin=origin,
        vkey=str(signer.verifier),
        api_keys={name: target / "clients" / f"{name}.key" for name in API_KEY_PRINCIPALS},
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


def _signed_models(bundles: Path) -> Iterator[Path]:
    """The version of the model that the policy serves, where it is: a directory that holds a manifest."""
    return (manifest.parent for manifest in bundles.glob(f"{MODEL}/{SERVED}/manifest.json"))


def _write_whole(target: Path, contents: Mapping[str, File], models: Sequence[Path], suffix: str) -> None:
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


def _write(path: Path, file: File) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if file.secret else 0o644)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(file.data)
