"""A gateway's directory as `stockade init` makes it, with a caller for every way to be refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import OKPAlgorithm

from gateway.policy.signature import sign_policy
from gateway.tools.init.files import Ports, issue_api_key
from gateway.tools.init.init import init_directory
from gateway.tools.init.pki import Authority, Credential
from gateway.tools.samples import bundles_directory
from serving.train.pack import public_pem
from tests.serving.tiny import signing_key, tiny_sealed, write

ISSUER = "https://issuer.test"
AUDIENCE = "stockade"
KID = "test-1"
UNLIMITED = {"requests": "100000/s", "request_burst": 100_000, "cost": "100000/s", "cost_burst": 100_000}

Change = Callable[[dict[str, Any]], object]


@dataclass(slots=True)
class Site:
    """The directory, what was changed in it, and the secrets of its callers by principal or key id."""

    directory: Path
    keys: dict[str, str] = field(default_factory=dict)
    issuer_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def config(self) -> Path:
        return self.directory / "stockade.yaml"

    @property
    def policy(self) -> Path:
        return self.directory / "policy.yaml"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def vkey(self) -> str:
        return (self.directory / "keys/log.vkey").read_text().strip()

    def read(self, *names: str) -> bytes:
        return self.directory.joinpath(*names).read_bytes()

    def bearer(self, name: str) -> tuple[tuple[str, str], ...]:
        """The metadata of a caller with an API key."""
        return (("authorization", f"Bearer {self.keys[name]}"),)

    def token(self, *, key: Any = None, algorithm: str = "EdDSA", kid: str = KID, **changes: Any) -> str:
        """A token of the issuer for `token-user`; a change to None leaves the claim out."""
        now = datetime.now(UTC)
        good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "svc", "iat": now, "exp": now + timedelta(minutes=10)}
        claims = {name: value for name, value in (good | changes).items() if value is not None}
        return jwt.encode(claims, self.issuer_key if key is None else key, algorithm=algorithm, headers={"kid": kid})

    def new_key(self, key_id: str, *, days: int = 30) -> dict[str, Any]:
        """Make an API key; returns its entry for the policy."""
        expires = datetime.now(UTC) + timedelta(days=days)
        key, entry = issue_api_key(self.read("keys/pepper"), key_id, expires, os.urandom)
        self.keys[key_id] = key
        return yaml.safe_load(entry)

    def change_config(self, change: Change) -> None:
        document = yaml.safe_load(self.config.read_text())
        change(document)
        self.config.write_text(json.dumps(document, default=str))

    def change_policy(self, change: Change, *, sign: bool = True) -> None:
        """Rewrite the policy under the next revision. A change returns nothing and works in place."""
        document = yaml.safe_load(self.policy.read_text())
        document["revision"] += 1
        change(document)
        self.write_policy(json.dumps(document, default=str), sign=sign)

    def write_policy(self, text: str, *, sign: bool = True) -> None:
        self.policy.write_text(text)
        if sign:
            sign_policy(self.policy, self.directory / "keys/policy.key")

    def certificate(self, name: str, spiffe: str) -> tuple[bytes, bytes]:
        """A client certificate of this site's authority and its key, PEM."""
        pem, key_pem = self.read("tls/ca.crt"), self.read("tls/ca.key")
        certificate, key = x509.load_pem_x509_certificate(pem), load_pem_private_key(key_pem, None)
        root = Credential(pem, key_pem, certificate.not_valid_after_utc)
        issued = Authority(root, certificate, key, datetime.now(UTC), os.urandom).client(name, spiffe)
        return issued.certificate, issued.key


def make_site(path: Path, *, config: Change | None = None, policy: Change | None = None) -> Site:
    """`stockade init`, on free ports, with the callers below, a second model of another tenant, and these changes."""
    init_directory(
        path, now=datetime.now(UTC), random_bytes=os.urandom, ports=Ports(0, 0, 0, 0), bundles=bundles_directory()
    )
    site = Site(path)
    for name in ("kiosk-7", "batch-1"):
        site.keys[name] = site.read("clients", f"{name}.key").decode().strip()
    write(tiny_sealed(), path / "bundles/tiny/1")
    (path / "keys/tiny.pub").write_bytes(public_pem(signing_key()))
    public = OKPAlgorithm.to_jwk(site.issuer_key.public_key(), as_dict=True) | {"kid": KID}
    (path / "issuer.json").write_text(json.dumps({"keys": [public]}))

    def settings(document: dict[str, Any]) -> None:
        document["bundles"]["trusted_keys"].append("keys/tiny.pub")
        document["transport"]["drain_timeout"] = "10s"
        document["audit"]["append_timeout"] = "20s"  # a disk that many share may take seconds to sync
        if config is not None:
            config(document)

    def callers(document: dict[str, Any]) -> None:
        add_callers(document, site)
        if policy is not None:
            policy(document)

    site.change_config(settings)
    site.change_policy(callers)
    return site


def add_callers(policy: dict[str, Any], site: Site) -> None:
    """The callers that tests are made with; each has its own limits, so that no test spends another's."""
    limits = policy["limits"]
    limits["unlimited"] = UNLIMITED | {"in_flight": 4096}
    limits["two-requests"] = UNLIMITED | {"requests": "1/h", "request_burst": 2, "in_flight": 8}
    limits["eight-rows"] = UNLIMITED | {"cost": "1/h", "cost_burst": 8, "in_flight": 8}
    limits["one-at-a-time"] = UNLIMITED | {"in_flight": 1}
    policy["tenants"] |= {
        "plenty": {"limits": "unlimited", "class": "standard"},
        "rival": {"limits": "unlimited", "class": "standard"},
        "forgetful": {"limits": "unlimited", "class": "interactive", "capture": "all"},
    }
    policy["roles"]["rival"] = [{"methods": ["*"], "models": ["tiny"], "versions": ["*"]}]
    policy["roles"]["onlooker"] = [{"methods": ["ServerReady", "Health"]}]
    policy["issuers"] = {
        "corp": {"url_or_file": "issuer.json", "issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["EdDSA"]}
    }
    policy["models"]["tiny"] = {"serve": "1"}
    held = (
        ("plenty", "predictor", "unlimited"),
        ("rival", "rival", "unlimited"),
        ("onlooker", "onlooker", "unlimited"),
        ("rated", "predictor", "two-requests"),
        ("hasty", "predictor", "two-requests"),
        ("costly", "predictor", "eight-rows"),
        ("single", "predictor", "one-at-a-time"),
        ("token-user", "predictor", "unlimited"),
        ("lapsed", "predictor", "unlimited"),
        ("archivist", "predictor", "unlimited"),
    )
    tenants = {"rival": "rival", "archivist": "forgetful"}
    for name, role, limit in held:
        policy["principals"][name] = {
            "tenant": tenants.get(name, "plenty"),
            "roles": [role],
            "limits": limit,
            "api_keys": [site.new_key(name)],
        }
    policy["principals"]["token-user"] |= {"subjects": [{"issuer": "corp", "subject": "svc"}]}
    revoked = site.new_key("revoked") | {"revoked": True}
    policy["principals"]["lapsed"]["api_keys"] = [site.new_key("expired", days=-1), revoked, site.new_key("lapsed")]


def copy_site(site: Site, path: Path) -> Site:
    """The same gateway elsewhere: its own directory and processes, the same keys."""
    shutil.copytree(site.directory, path, symlinks=True)
    return Site(path, dict(site.keys), site.issuer_key)
