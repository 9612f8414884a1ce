"""A complete small bundle: the kiosk's real graph and manifest with random weights, sealed by a key of the test."""

from __future__ import annotations

from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from serving.bundles.bundle import Bundle, assemble
from serving.bundles.signature import TrustedKey
from serving.train.density import ClassDensities, Plane
from serving.train.kiosk.graph import Convolution, write_graph
from serving.train.pack import public_pem, seal, tensor_bytes

CLASSES, WIDTH = 3, 4


@cache
def signing_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(0x5745 + number, ec.SECP256R1())


def trusted(number: int = 0) -> TrustedKey:
    return TrustedKey.from_pem(public_pem(signing_key(number)), "test.pub")


@cache
def tiny_graph() -> bytes:
    rng = np.random.default_rng(0)
    return write_graph(
        [Convolution(rng.normal(size=(WIDTH, 1, 3, 3)), rng.normal(size=WIDTH), 4)],
        head_weight=rng.normal(size=(CLASSES, WIDTH)),
        head_bias=rng.normal(size=CLASSES),
        plane=Plane(rng.random(784), np.linalg.qr(rng.normal(size=(784, 2)))[0], 0.5),
        densities=ClassDensities(
            rng.normal(size=(CLASSES, WIDTH, WIDTH)), rng.normal(size=(CLASSES, WIDTH)), np.zeros(CLASSES)
        ),
        middle=[0],
    )


def tiny_files() -> dict[str, bytes]:
    return {
        "model.onnx": tiny_graph(),
        "weights.safetensors": tensor_bytes({"w": np.arange(4, dtype=np.float32)}),
        "calibration.safetensors": tensor_bytes({"scores": np.linspace(0, 1, 5)}),
    }


def tiny_manifest(version: str = "1") -> dict:
    def spec(name, *sizes, low=None, high=None):
        return {"name": name, "datatype": "FP32", "shape": [-1, *sizes], "low": low, "high": high}

    return {
        "format": "stockade.bundle/1",
        "name": "tiny",
        "version": version,
        "inputs": [spec("image", 28, 28, low=0.0, high=1.0)],
        "outputs": [
            spec("probabilities", CLASSES),
            spec("logits", CLASSES),
            spec("latent", WIDTH),
            spec("energy"),
            spec("mahalanobis"),
            spec("residual"),
        ],
        "class_names": ["a", "b", "c"],
        "roles": {"prediction": ["probabilities"]},
        "graphs": {"dense": "model.onnx"},
        "weights": "weights.safetensors",
        "calibration": "calibration.safetensors",
        "data": {},
        "training": {},
        "metrics": {},
        "calibration_report": {},
        "gates": [],
    }


def tiny_sealed(version: str = "1") -> dict[str, bytes]:
    return seal(tiny_files(), tiny_manifest(version), signing_key())


def tiny_bundle(version: str = "1") -> Bundle:
    return assemble(tiny_sealed(version), (trusted(),))


def write(sealed, directory):
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in sealed.items():
        (directory / name).write_bytes(data)
    return directory


def remote_sealed(files: dict[str, bytes] | None = None, **changes) -> dict[str, bytes]:
    """The bundle of a model that runs elsewhere: what it takes and gives, and no graph."""
    outputs = [{"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]}]
    elsewhere = {"graphs": {}, "weights": "", "calibration": "", "roles": {}}
    elsewhere["upstream"] = {"name": "tiny-there", "version": "3"}
    return seal(files or {}, {**tiny_manifest(), "outputs": outputs, **elsewhere, **changes}, signing_key())


def remote_bundle(files: dict[str, bytes] | None = None, **changes) -> Bundle:
    return assemble(remote_sealed(files, **changes), (trusted(),))
