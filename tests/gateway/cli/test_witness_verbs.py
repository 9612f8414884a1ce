"""`stockade audit prove|cosign|witness|verify` as people call them, on a recorder's log and with a real witness."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.cli.main import main
from ops.audit.log.checkpoint import Checkpoint, SignerKey, open_note, sign_note
from ops.audit.log.cosignature import parse_cosigner
from ops.audit.log.merkle import leaf_hash
from ops.audit.log.tlog_proof import TlogProof
from tests.ops.audit.open_log import VKEY, OpenLog, open_log
from tests.ops.audit.samples import small

OK, TAMPERED, INCOMPLETE, STALE, USAGE = range(5)


def audit(*arguments: object) -> int:
    try:
        return main(["audit", *map(str, arguments)])
    except SystemExit as stopped:
        return int(str(stopped.code))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OpenLog]:
    with open_log(tmp_path / "log") as made:
        grow(made, 3)
        yield made


def grow(log: OpenLog, count: int) -> None:
    log.append([small(log.appender.size + number) for number in range(count)])
    log.publish()


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A directory with a witness's key, and what it watches."""
    for name, more in (("one", []), ("two", ["--ed25519"])):
        assert main(["keys", "witness", f"{name}.test/w", "--out", str(tmp_path / f"{name}.key"), *more]) == OK
        assert (tmp_path / f"{name}.vkey").read_text() == capsys.readouterr().out
    (tmp_path / "watched").write_text(f"log {VKEY}\nquorum none\n")
    return tmp_path


@contextmanager
def served(place: Path, *, keys: tuple[str, ...] = ("one", "two"), store: str = "witness.sqlite") -> Iterator[str]:
    """A witness in a process of its own; gives its URL."""
    arguments = [each for name in keys for each in ("--key", str(place / f"{name}.key"))]
    program = [sys.executable, "-u", "-m", "gateway", "audit", "witness", *arguments]
    program += ["--policy", str(place / "watched"), "--store", str(place / store), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in range(len(keys) + 1)]
            yield lines[-1].split()[-1]
        finally:
            process.terminate()


def write_policy(place: Path, *urls: str, quorum: str = "both") -> Path:
    one, two = ((place / f"{name}.vkey").read_text().strip() for name in ("one", "two"))
    lines = [f"log {VKEY}", f"witness one {one} {urls[0]}", f"witness two {two} {urls[-1]}"]
    lines += ["group both all one two", f"quorum {quorum}"]
    file = place / "policy"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_receipt_proves_its_entry_and_no_other(log, place, capsys):
    receipt = place / "1.tlog-proof"
    assert audit("prove", log.directory, 1, "--vkey", VKEY, "--out", receipt) == OK
    grow(log, 300)  # a receipt stays good
    assert audit("verify", receipt, "--vkey", VKEY, "--json") == OK
    said = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert (said["verdict"], said["index"], said["witnesses"]) == ("verified", 1, [])
    assert said["entry"]["kind"] == json.loads(small(1))["kind"]
    receipt.write_bytes(receipt.read_bytes().replace(b"index 1", b"index 2"))
    assert audit("verify", receipt, "--vkey", VKEY) == TAMPERED
    assert "TAMPERED" in capsys.readouterr().err


def test_receipts_that_cannot_be_made_or_read_say_why(log, place, capsys):
    assert audit("prove", log.directory, 99, "--vkey", VKEY) == INCOMPLETE
    assert "so no entry 99" in capsys.readouterr().err
    assert audit("prove", log.directory, 1) == USAGE
    assert audit("prove", log.directory, -1, "--vkey", VKEY) == USAGE
    (place / "junk").write_bytes(b"junk")
    assert audit("verify", place / "junk", "--vkey", VKEY) == USAGE
    assert "begins with c2sp.org/tlog-proof@v1" in capsys.readouterr().err
    assert audit("verify", place / "junk") == USAGE
    assert "--vkey KEY or --policy FILE" in capsys.readouterr().err


def test_receipts_of_logs_that_others_keep(place, capsys):
    """Their entries need not be JSON, their checkpoints may have extension lines, their receipts hold no entry."""
    key = SignerKey("other.test/log", bytes(32))
    text = Checkpoint(key.name, 1, leaf_hash(b"\xffany bytes")).text() + "an extension\n"
    receipt = place / "0.tlog-proof"
    receipt.write_bytes(TlogProof(0, (), sign_note(text, [key]), b"\xffany bytes").text())
    assert audit("verify", receipt, "--vkey", key.verifier, "--json") == OK
    assert json.loads(capsys.readouterr().out)["entry"] == "\\xffany bytes"
    receipt.write_bytes(TlogProof(0, (), sign_note(text, [key])).text())
    assert audit("verify", receipt, "--vkey", key.verifier) == INCOMPLETE
    assert "holds no entry" in capsys.readouterr().err


def test_two_witnesses_cosign_a_log_as_it_grows_and_a_verifier_asks_for_both(log, place, capsys):
    out = place / "cosigned"
    with served(place) as url:
        policy = write_policy(place, url)
        for _ in range(2):
            grow(log, 150)
            assert audit("cosign", log.directory, "--policy", policy, "--out", out) == OK
        assert "is cosigned by the quorum both" in capsys.readouterr().out
    keys = [parse_cosigner((place / f"{name}.vkey").read_text().strip()) for name in ("one", "two")]
    assert set(open_note(out.read_bytes(), keys).verified) == {"one.test/w", "two.test/w"}
    receipt = place / "7.tlog-proof"
    assert audit("prove", log.directory, 7, "--vkey", VKEY, "--checkpoint", out, "--out", receipt) == OK
    assert audit("verify", receipt, "--policy", policy) == OK
    assert "cosigned by one, two" in capsys.readouterr().out
    grow(log, 10)
    assert audit("verify", log.directory, "--policy", policy, "--remembered", out) == OK
    assert audit("verify", log.directory, "--policy", policy) == INCOMPLETE
    assert "no checkpoint cosigned by both was brought" in capsys.readouterr().out
    assert (
        audit("verify", log.directory, "--policy", policy, "--remembered", log.directory / "checkpoint") == INCOMPLETE
    )
    assert "cosigned by nobody" in capsys.readouterr().out


def test_without_the_quorum_nothing_is_written(log, place, capsys):
    out = place / "cosigned"
    with served(place) as url:
        policy = write_policy(place, url, "http://127.0.0.1:1")
        assert audit("cosign", log.directory, "--policy", policy, "--out", out, "--json") == INCOMPLETE
        said = json.loads(capsys.readouterr().out)
        assert (said["quorum"], said["cosigned"], list(said["failures"])) == (False, ["one"], ["two"])
        assert not out.exists()
        policy = write_policy(place, url, "http://127.0.0.1:1", quorum="one")
        assert audit("cosign", log.directory, "--policy", policy, "--out", out) == OK


def test_a_log_that_was_put_back_is_found_out_by_its_witness(log, place, tmp_path, capsys):
    """What no directory can show about itself."""
    older = shutil.copytree(log.directory, tmp_path / "older")
    grow(log, 20)
    with served(place) as url:
        policy = write_policy(place, url)
        assert audit("cosign", log.directory, "--policy", policy, "--out", place / "cosigned") == OK
        assert audit("verify", older, "--vkey", VKEY) == OK
        assert audit("cosign", older, "--policy", policy, "--out", place / "again") == TAMPERED
        assert "an older copy was put back, or a fork" in capsys.readouterr().out
    assert not (place / "again").exists()
    assert audit("verify", older, "--policy", policy, "--remembered", place / "cosigned") == TAMPERED


def test_a_witness_that_lost_its_database_cosigns_again_from_nothing(log, place):
    with served(place) as url:
        assert audit("cosign", log.directory, "--policy", write_policy(place, url), "--out", place / "cosigned") == OK
    grow(log, 5)
    with served(place, store="another.sqlite") as url:
        assert audit("cosign", log.directory, "--policy", write_policy(place, url), "--out", place / "cosigned") == OK


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--listen": "8008"}, "--listen is HOST:PORT"),
        ({"--listen": "127.0.0.1:99999"}, "--listen is HOST:PORT"),
        ({"--key": "one.vkey"}, "not a signer key"),
        ({"--key": "missing"}, "No such file"),
        ({"--policy": "empty"}, "there is nothing to watch"),
        ({"--store": "none/witness.sqlite"}, "unable to open database file"),
    ],
    ids=str,
)
def test_a_witness_that_cannot_be_one_says_why(place, change, words, capsys):
    (place / "empty").write_text("quorum none\n")
    options = {"--key": "one.key", "--policy": "watched", "--store": "witness.sqlite"} | change
    arguments = [(name, value if name == "--listen" else str(place / value)) for name, value in options.items()]
    assert audit("witness", *(each for pair in arguments for each in pair)) == USAGE
    assert words in " ".join(capsys.readouterr().err.split())


def test_the_key_of_a_witness_is_never_replaced(place, capsys):
    before = (place / "one.key").read_bytes()
    assert main(["keys", "witness", "one.test/w", "--out", str(place / "one.key")]) == 2
    assert "is never replaced" in capsys.readouterr().err
    assert (place / "one.key").read_bytes() == before
    assert (place / "one.key").stat().st_mode & 0o777 == 0o600
