from __future__ import annotations

import stat

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from serving.bundles.bundle import load_bundle
from serving.errors import BundleRejected
from serving.train.errors import SigningKeyUnusable
from serving.train.pack import open_signing_key, public_pem, seal, sign_again, write_bundle
from tests.serving.tiny import signing_key, tiny_files, tiny_manifest


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path):
    path = tmp_path / "keys" / "bundles.key"
    key = open_signing_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_signing_key(path).private_numbers() == key.private_numbers()


@pytest.mark.parametrize("kind", ["garbage", "curve", "encrypted", "directory"])
def test_a_key_that_cannot_sign_is_named(tmp_path, kind):
    path = tmp_path / "k"
    if kind == "directory":
        path.mkdir()
    elif kind == "garbage":
        path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    else:
        key = ec.generate_private_key(ec.SECP384R1() if kind == "curve" else ec.SECP256R1())
        cipher = NoEncryption() if kind == "curve" else BestAvailableEncryption(b"secret")
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher))
    with pytest.raises(SigningKeyUnusable):
        open_signing_key(path)


def test_a_new_bundle_takes_the_place_of_the_old(tmp_path):
    key, public = signing_key(), tmp_path / "k.pub"
    public.write_bytes(public_pem(key))
    directory = tmp_path / "tiny" / "1"
    first = write_bundle(directory, seal(tiny_files(), tiny_manifest(), key), key)
    (directory / "left.md").write_bytes(b"")
    second = write_bundle(directory, seal(tiny_files(), tiny_manifest() | {"metrics": {"a": 1}}, key), key)
    assert first.digest != second.digest
    assert load_bundle(directory, [public]).digest == second.digest
    assert [path.name for path in directory.parent.iterdir()] == ["1"]


def test_what_would_not_load_is_not_written(tmp_path):
    key = signing_key()
    directory = tmp_path / "tiny" / "1"
    write_bundle(directory, seal(tiny_files(), tiny_manifest(), key), key)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(BundleRejected):
        write_bundle(directory, seal({**tiny_files(), "model.onnx": b"\xff"}, tiny_manifest(), key), key)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_manifest_holds_only_numbers_that_json_has():
    with pytest.raises(ValueError, match="JSON"):
        seal(tiny_files(), tiny_manifest() | {"metrics": {"a": float(np.nan)}}, signing_key())


def test_signed_again_only_the_signature_is_another(tmp_path):
    old, new, public = signing_key(), signing_key(1), tmp_path / "k.pub"
    public.write_bytes(public_pem(new))
    directory = tmp_path / "tiny" / "1"
    first = write_bundle(directory, seal(tiny_files(), tiny_manifest(), old), old)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert sign_again(directory, new).digest == first.digest == load_bundle(directory, [public]).digest
    after = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"model.sig"}
    assert [path.name for path in directory.parent.iterdir()] == ["1"]


def test_what_would_not_load_is_not_signed_again(tmp_path):
    directory = tmp_path / "tiny" / "1"
    write_bundle(directory, seal(tiny_files(), tiny_manifest(), signing_key()), signing_key())
    (directory / "model.onnx").write_bytes(b"changed")
    before = (directory / "model.sig").read_bytes()
    with pytest.raises(BundleRejected, match="its list of files"):
        sign_again(directory, signing_key(1))
    assert (directory / "model.sig").read_bytes() == before
