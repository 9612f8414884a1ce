from __future__ import annotations

import hashlib
import os
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundles import bundle as bundle_module
from serving.bundles.bundle import assemble, load_bundle, read_bundle, read_keys
from serving.bundles.signature import sign
from serving.errors import BundleRejected, Rejection
from serving.train.pack import public_pem, seal, tensor_bytes
from tests.serving.tiny import signing_key, tiny_files, tiny_manifest, tiny_sealed, trusted, write

SEALED = tiny_sealed()


@pytest.fixture
def directory(tmp_path):
    return write(SEALED, tmp_path / "1")


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key.pub"
    path.write_bytes(public_pem(signing_key()))
    return path


def rejected(directory, key):
    with pytest.raises(BundleRejected) as caught:
        load_bundle(directory, [key])
    return caught.value.reason, caught.value.file


def resealed(files=None, **manifest):
    return seal(tiny_files() | (files or {}), tiny_manifest() | manifest, signing_key())


def assembled(sealed):
    with pytest.raises(BundleRejected) as caught:
        assemble(sealed, (trusted(),))
    return caught.value.reason, caught.value.file


def test_a_bundle_loads_as_it_was_sealed(directory, key):
    loaded = load_bundle(directory, [key])
    assert (loaded.name, loaded.version, loaded.class_names) == ("tiny", "1", ("a", "b", "c"))
    assert loaded.graphs["dense"] == SEALED["model.onnx"]
    assert loaded.inputs[0].shape == (-1, 28, 28)
    assert loaded.manifest["files"].keys() == {"model.onnx", "weights.safetensors", "calibration.safetensors"}
    np.testing.assert_array_equal(loaded.calibration["scores"], np.linspace(0, 1, 5))


def test_the_digest_is_what_sha256sum_says_of_the_manifest(directory, key):
    assert (
        load_bundle(directory, [key]).digest == hashlib.sha256((directory / "manifest.json").read_bytes()).hexdigest()
    )


def test_what_is_loaded_cannot_be_changed(directory, key):
    loaded = load_bundle(directory, [key])
    with pytest.raises(ValueError, match="read-only"):
        loaded.calibration["scores"][0] = 1
    with pytest.raises(TypeError):
        loaded.manifest["name"] = "other"


def test_missing_and_extra_files(directory, key):
    (directory / "extra.md").write_bytes(b"")
    assert rejected(directory, key) == (Rejection.FILE_EXTRA, "extra.md")
    (directory / "extra.md").unlink()
    (directory / "weights.safetensors").unlink()
    assert rejected(directory, key) == (Rejection.FILE_MISSING, "weights.safetensors")


def test_unsigned_and_wrongly_signed(directory, key, tmp_path):
    other = tmp_path / "other.pub"
    other.write_bytes(signing_key(1).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert rejected(directory, other)[0] is Rejection.KEY_UNTRUSTED
    (directory / "model.sig").unlink()
    assert rejected(directory, key)[0] is Rejection.UNSIGNED


@given(st.data(), st.sampled_from(sorted(SEALED)))
@settings(max_examples=400, deadline=None)
def test_no_byte_of_any_file_can_be_changed(data, name):
    content = bytearray(SEALED[name])
    region = data.draw(st.integers(0, 15))
    low, high = region * len(content) // 16, (region + 1) * len(content) // 16 - 1
    position = data.draw(st.integers(low, max(low, high)))
    content[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BundleRejected):
        assemble({**SEALED, name: bytes(content)}, (trusted(),))


@given(st.data(), st.sampled_from(sorted(SEALED)))
@settings(max_examples=150, deadline=None)
def test_no_file_can_be_cut_or_extended(data, name):
    content = SEALED[name]
    cut = data.draw(st.integers(0, len(content) - 1))
    grown = content + data.draw(st.binary(min_size=1, max_size=8).filter(lambda tail: tail.strip(b" \t\r\n")))
    for changed in (content[:cut], grown):
        with pytest.raises(BundleRejected):
            assemble({**SEALED, name: changed}, (trusted(),))


def test_two_files_cannot_change_places(directory, key):
    swapped = {**SEALED, "weights.safetensors": SEALED["calibration.safetensors"]}
    assert assembled(swapped) == (Rejection.DIGEST, "weights.safetensors")


def test_a_symbolic_link_to_the_right_bytes_is_not_a_file(directory, key, tmp_path):
    target = tmp_path / "model.onnx"
    (directory / "model.onnx").rename(target)
    (directory / "model.onnx").symlink_to(target)
    assert rejected(directory, key) == (Rejection.NOT_A_FILE, "model.onnx")


def test_a_dangling_link_a_directory_a_fifo_and_a_socket_are_not_files(directory, key):
    path = directory / "extra.md"
    path.symlink_to("nowhere")
    assert rejected(directory, key) == (Rejection.NOT_A_FILE, "extra.md")
    path.unlink()
    path.mkdir()
    assert rejected(directory, key) == (Rejection.NOT_A_FILE, "extra.md")
    path.rmdir()
    os.mkfifo(path)
    assert rejected(directory, key) == (Rejection.NOT_A_FILE, "extra.md")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(directory)  # a socket's path has at most 107 bytes
        listener.bind("extra.md")
        os.chdir(here)
        assert rejected(directory, key) == (Rejection.NOT_A_FILE, "extra.md")


def test_the_directory_itself_must_be_one_and_no_link(directory, key, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(directory)
    assert rejected(link, key)[0] is Rejection.UNREADABLE
    assert rejected(tmp_path / "absent", key)[0] is Rejection.UNREADABLE
    assert rejected(key, key)[0] is Rejection.UNREADABLE


@pytest.mark.parametrize("name", [".hidden.md", "with space.md", "nosuffix", "ü.md", "a" * 65 + ".md"])
def test_names_that_are_not_plain(directory, key, name):
    (directory / name).write_bytes(b"")
    assert rejected(directory, key)[0] is Rejection.NAME


@pytest.mark.parametrize("name", ["w.pkl", "w.pt", "w.bin", "w.npz", "w.npy", "run.py", "lib.so", "model.onnx.data"])
def test_kinds_that_are_never_loaded(directory, key, name):
    (directory / name).write_bytes(b"")
    assert rejected(directory, key) == (Rejection.KIND, name)


def test_a_pickle_by_another_name_is_not_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    trap = pickle.dumps(Trap())
    for file in ("calibration.safetensors", "weights.safetensors"):
        assert assembled(resealed({file: trap})) == (Rejection.TENSORS, file)
    assert assembled(resealed({"model.onnx": trap})) == (Rejection.GRAPH, "model.onnx")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensors_that_are_not_finite(value):
    bad = tensor_bytes({"scores": np.array([0.0, value])})
    assert assembled(resealed({"calibration.safetensors": bad}))[0] is Rejection.TENSORS


def test_a_manifest_that_lists_other_files_than_were_signed():
    sealed = dict(SEALED)
    del sealed["manifest.json"], sealed["model.sig"]
    other = seal(
        tiny_files() | {"weights.safetensors": tensor_bytes({"w": np.zeros(1)})}, tiny_manifest(), signing_key()
    )
    sealed["manifest.json"] = other["manifest.json"]
    sealed["model.sig"] = sign(
        {name: hashlib.sha256(data).hexdigest() for name, data in sealed.items()}, "1", signing_key()
    )
    assert assembled(sealed) == (Rejection.MANIFEST, "manifest.json")


def test_a_signature_over_no_manifest():
    files = {"README.md": b"hello"}
    digests = {"README.md": hashlib.sha256(b"hello").hexdigest()}
    assert assembled({**files, "model.sig": sign(digests, "1", signing_key())}) == (
        Rejection.FILE_MISSING,
        "manifest.json",
    )


def test_file_size_at_the_limit_and_one_past_it(directory, key, monkeypatch):
    largest = max(len(data) for data in SEALED.values())
    monkeypatch.setattr(bundle_module, "FILE_BYTES_MAX", largest)
    assert load_bundle(directory, [key]).name == "tiny"
    monkeypatch.setattr(bundle_module, "FILE_BYTES_MAX", largest - 1)
    assert rejected(directory, key)[0] is Rejection.SIZE


def test_bundle_size_at_the_limit_and_one_past_it(directory, key, monkeypatch):
    total = sum(len(data) for data in SEALED.values())
    monkeypatch.setattr(bundle_module, "BUNDLE_BYTES_MAX", total)
    assert load_bundle(directory, [key]).name == "tiny"
    monkeypatch.setattr(bundle_module, "BUNDLE_BYTES_MAX", total - 1)
    assert rejected(directory, key)[0] is Rejection.SIZE


def test_an_absurdly_large_sparse_file_is_refused_unread(directory, key):
    with (directory / "model.onnx").open("r+b") as file:
        file.truncate(1 << 40)
    assert rejected(directory, key) == (Rejection.SIZE, "model.onnx")


def test_number_of_files_one_past_the_limit(directory, key):
    for index in range(65 - len(SEALED)):
        (directory / f"f{index}.md").write_bytes(b"")
    assert rejected(directory, key)[0] is Rejection.FILE_EXTRA
    (directory / "last.md").write_bytes(b"")
    assert rejected(directory, key)[0] is Rejection.COUNT


def test_what_was_read_is_what_is_used_whatever_happens_to_the_disk(directory, key):
    files = read_bundle(directory)
    for path in directory.iterdir():
        path.write_bytes(b"swapped after the read")
    assert assemble(files, read_keys([key])).graphs["dense"] == SEALED["model.onnx"]


def test_a_file_may_hold_several_keys_and_nothing_else(tmp_path, directory):
    mine, other = (public_pem(signing_key(number)) for number in (0, 1))
    path = tmp_path / "several.pub"
    for order in (other + mine, mine + b"\n\n" + other + b"\n"):
        path.write_bytes(order)
        assert len(read_keys([path])) == 2
        assert load_bundle(directory, [path]).name == "tiny"
    for content in (mine + b"more", b"", b"\n", mine + mine[:-5]):
        path.write_bytes(content)
        with pytest.raises(BundleRejected) as caught:
            read_keys([path])
        assert caught.value.reason is Rejection.KEY_UNUSABLE


def test_keys_that_cannot_be_read_or_are_too_large(tmp_path):
    for path, content in ((tmp_path / "absent.pub", None), (tmp_path / "large.pub", b"x" * (64 * 1024 + 1))):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BundleRejected) as caught:
            read_keys([path])
        assert (caught.value.reason, caught.value.file) == (Rejection.KEY_UNUSABLE, path.name)
