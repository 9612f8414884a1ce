"""What a directory of `stockade init` holds: keys, certificates, both files. Nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.auth.api_key import key_mac, new_api_key
from gateway.config.values import is_loopback
from gateway.tools.init.pki import Credential, RandomBytes, new_authority, new_key, private_pem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from ops.audit.log.checkpoint import SignerKey

SECRET_BYTES = 32
MODEL, SERVED = "kiosk", "1"  # what rules.yaml serves
TRUST_DOMAIN = "stockade.local"
KIOSK_SPIFFE = f"spiffe://{TRUST_DOMAIN}/kiosk/7"
OPERATOR_SPIFFE = f"spiffe://{TRUST_DOMAIN}/operator"
API_KEY_PRINCIPALS = ("kiosk-7", "batch-1")
UPSTREAM_CA = "tls/upstream-ca.crt"
UPSTREAM_TRUST = f"    tls: {{ca: {UPSTREAM_CA}}}  # who signed its certificate, PEM: put it there\n"


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
class File:
    """What a file is made of; one that is `secret` is its owner's alone."""

    data: bytes
    secret: bool = False


def issue_api_key(pepper: bytes, key_id: str, expires: datetime, random_bytes: RandomBytes) -> tuple[str, str]:
    """Return a new API key and its entry for `api_keys` in the policy. The key is shown once and kept nowhere.

    Raises:
        ValueError: `key_id` cannot be one.
    """
    key = new_api_key(random_bytes(SECRET_BYTES), key_id)
    return key, f"{{id: {key_id}, hmac: {key_mac(pepper, key).hex()}, expires: {expires:%Y-%m-%d}}}"


def client_keys(pepper: bytes, expires: datetime, random_bytes: RandomBytes) -> tuple[dict[str, File], dict[str, str]]:
    """Return a file with a new API key for each principal of the policy, and their entries by place in the template."""
    issued = {name: issue_api_key(pepper, f"{name}-a", expires, random_bytes) for name in API_KEY_PRINCIPALS}
    contents = {f"clients/{name}.key": File(f"{key}\n".encode(), secret=True) for name, (key, _) in issued.items()}
    return contents, {name.replace("-", "_"): entry for name, (_, entry) in issued.items()}


def log_keys(signer: SignerKey) -> dict[str, File]:
    """Return the key that signs the log, and the one that verifies it."""
    return {
        "keys/log.key": File(f"{signer.secret()}\n".encode(), secret=True),
        "keys/log.vkey": File(f"{signer.verifier}\n".encode()),
    }


def secrets(random_bytes: RandomBytes) -> dict[str, File]:
    """Return what API keys are hashed with, and the key of the payloads' keys."""
    return {
        "keys/pepper": File(random_bytes(SECRET_BYTES), secret=True),
        "keys/payload-master.key": File(random_bytes(SECRET_BYTES), secret=True),
    }


def bundle_keys(random_bytes: RandomBytes, release_key: Path | None) -> dict[str, File]:
    """Return trust in whoever signed the models that are copied; without any, a key pair to sign your own with."""
    if release_key:
        return {"keys/bundles.pub": File(release_key.read_bytes())}
    key = new_key(random_bytes)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {"keys/bundles.key": File(private_pem(key), secret=True), "keys/bundles.pub": File(public)}


def certificates(hosts: Sequence[str], now: datetime, random_bytes: RandomBytes) -> tuple[dict[str, File], datetime]:
    """Return the authority, what it certifies, and when the first of the certificates expires."""
    authority = new_authority(f"Stockade private authority {random_bytes(4).hex()}", now, random_bytes)
    issued: dict[str, Credential] = {
        "tls/ca": authority.credential,
        "tls/server": authority.server(hosts),
        "clients/kiosk-7.tls": authority.client("kiosk-7", KIOSK_SPIFFE),
        "clients/operator.tls": authority.client("operator", OPERATOR_SPIFFE),
    }
    contents: dict[str, File] = {}
    for name, credential in issued.items():
        contents[f"{name}.crt"] = File(credential.certificate)
        contents[f"{name}.key"] = File(credential.key, secret=True)
    return contents, min(credential.expires for credential in issued.values())


def _template(name: str, **values: str) -> bytes:
    text = files("gateway.tools.init").joinpath("templates", name).read_text(encoding="utf-8")
    return Template(text).substitute(values).encode()


def config_file(origin: str, listen_host: str, ports: Ports, upstream: Upstream | None) -> File:
    """Return stockade.yaml."""
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
    return File(text)


def _engine(upstream: Upstream | None) -> str:
    if upstream is None:
        return _template("engine.yaml").decode()
    trust = "" if is_loopback(upstream.address) else UPSTREAM_TRUST
    return _template("engine-upstream.yaml", address=upstream.address, trust=trust).decode()


def signed_policy(api_keys: Mapping[str, str], random_bytes: RandomBytes, upstream: Upstream | None) -> dict[str, File]:
    """Return policy.yaml, its signature, and the key pair it is signed with. `api_keys` are their entries by place."""
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
        "policy.yaml": File(policy),
        "policy.yaml.sig": File(key.sign(policy)),
        "keys/policy.key": File(private, secret=True),
        "keys/policy.pub": File(public),
    }
