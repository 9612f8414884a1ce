"""Reading a whole log a part at a time: every entry once, and at the end the word whether they were signed."""

from __future__ import annotations

import pytest

from ops.audit.errors import NoteError, ProofError, ReadError
from ops.audit.reader import scan as scanning
from ops.audit.reader.scan import scan
from tests.faults.recorder_process import KEY
from tests.ops.audit.open_log import open_log
from tests.ops.audit.samples import small


@pytest.fixture
def log(tmp_path):
    with open_log(tmp_path / "log") as made:
        made.say([small(number) for number in range(600)])
        yield made


@pytest.mark.parametrize("part", [1, 255, 256, 257, 10_000])
def test_every_entry_once_in_order(log, monkeypatch, part):
    monkeypatch.setattr(scanning, "PART", part)
    seen, told = [], []
    head = scan(log.directory, KEY.verifier, lambda *one: seen.append(one), progress=lambda *one: told.append(one))
    assert [index for index, _ in seen] == list(range(head.size))
    assert [entry for _, entry in seen][-600:] == [small(number) for number in range(600)]
    assert told[-1] == (head.size, head.size)
    assert len(told) == -(-head.size // part)


@pytest.mark.parametrize("bundle", ["000", "001", "002.p/*"])
def test_one_letter_of_one_entry_is_noticed(log, bundle):
    (file,) = log.directory.glob(f"tile/entries/{bundle}")
    data = file.read_bytes()
    at = data.rfind(b"RATE_LIMITED") if b"RATE_LIMITED" in data else data.rfind(b'"id":"') + 6
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(ProofError, match="do not lead to the root"):
        scan(log.directory, KEY.verifier, lambda *_: None)


def test_a_log_that_is_not_there_or_not_ours(log, tmp_path):
    with pytest.raises(ReadError):
        scan(tmp_path / "nothing", KEY.verifier, lambda *_: None)
    checkpoint = log.directory / "checkpoint"
    checkpoint.write_bytes(checkpoint.read_bytes().replace(b"\n", b"x\n", 1))
    with pytest.raises(NoteError):
        scan(log.directory, KEY.verifier, lambda *_: None)
