"""A model whose versions must be approved by two of three, with what approvers do at their terminals."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.cli import main as cli
from serving.train.pack import seal, tensor_bytes
from tests.e2e.site import Site
from tests.e2e.versions import graph_of, manifest, write_versions
from tests.serving.registry.made import key_of, public
from tests.serving.tiny import signing_key, tiny_files, write

MODEL = "shelf"
APPROVERS = ("alice", "bob", "carol")
ROWS = 400
ATTACK = {"accuracy_min": 0.5, "radius": 0.05, "queries": 5, "rows": 20}


def labelled() -> bytes:
    """Images that are dark or bright, which the good model tells apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(ROWS) % 2 * 2
    images = rng.uniform(0.0, 0.1, (ROWS, 28, 28)) + np.where(labels == 0, 0.8, 0.1)[:, None, None]
    return tensor_bytes({"image": images.astype(np.float32), "labels": labels})


def add_model(site: Site, second: str = "good", **promotion: Any) -> None:
    """Two versions of the model, the first of which is exempt; keys of the approvers and the data in `evidence`."""
    write_versions(site.directory / "bundles", MODEL, second)
    evidence = site.directory / "evidence"
    evidence.mkdir()
    (evidence / "data.safetensors").write_bytes(labelled())
    for name in (*APPROVERS, "mallory"):
        key = key_of(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (evidence / f"{name}.key").write_bytes(key)
    asked = {
        "required": 2,
        "approvers": list(APPROVERS),
        "dataset": sha256(labelled()).hexdigest(),
        "exempt": {"1": digest(site, "1")},
        "gates": {"accuracy_min": 0.95, "robustness": ATTACK, "disagreement_max": 0.02, "value_per_1000_min": 100},
        "value": {"currency": "EUR", "correct": 0.2, "wrong": -1.0, "cpu_hour": 0.05},
    }

    def change(policy: dict[str, Any]) -> None:
        policy["approvers"] = {name: {"key": public(name)} for name in (*APPROVERS, "mallory")}
        policy["models"][MODEL] = {"serve": "1", "promotion": asked | promotion}
        policy["roles"]["rival"][0]["models"].append(MODEL)

    site.change_policy(change)


def add_version(site: Site, version: str, way: str = "good") -> None:
    """Put the signed bundle of another version there."""
    files = tiny_files() | {"model.onnx": graph_of(way)}
    write(seal(files, manifest(MODEL, version), signing_key()), site.directory / "bundles" / MODEL / version)


def digest(site: Site, version: str) -> str:
    """The digest of a version's bundle."""
    return sha256(site.read(f"bundles/{MODEL}/{version}/manifest.json")).hexdigest()


def evidence_of(site: Site, version: str) -> Path:
    """Where its evidence lies."""
    return site.directory / "approvals" / MODEL / version


def evaluate(site: Site, version: str, *more: str) -> int:
    """`stockade models evaluate`."""
    data = site.directory / "evidence/data.safetensors"
    bundle = site.directory / "bundles" / MODEL / version
    words = ("models", "evaluate", bundle, "--config", site.config, "--data", data, *more)
    return cli.main([str(word) for word in words])


def approve(site: Site, version: str, approver: str, *more: str) -> int:
    """`stockade models approve`."""
    key = site.directory / "evidence" / f"{approver}.key"
    words = ("models", "approve", site.config, f"{MODEL}/{version}", "--as", approver, "--key", key, *more)
    return cli.main([str(word) for word in words])


def models(site: Site, verb: str, *more: str) -> int:
    """Another verb of `stockade models`."""
    return cli.main(["models", verb, str(site.config), *more])
