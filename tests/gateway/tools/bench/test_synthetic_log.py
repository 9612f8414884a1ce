import pytest

from gateway.tools.bench.synthetic_log import HEARTBEAT_RECORDS, entries, write_log
from ops.audit.log.checkpoint import SignerKey
from ops.audit.log.entry import check
from ops.audit.verify.verify import verify_log

SIGNER = SignerKey("stockade.local/bench", bytes(range(32)))
START_NS = 1_800_000_000_000_000_000


def write(directory, count):
    return write_log(directory, count, SIGNER, START_NS, lambda _done: None)


def verify(directory):
    return verify_log(directory, [str(SIGNER.verifier)], processes=0)


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 65_536 + 300])
def test_the_verifier_finds_nothing_to_say(tmp_path, count):
    head = write(tmp_path, count)
    report = verify(tmp_path)
    assert (report.exit_code, report.size, report.root) == (0, count, head.root.hex())
    assert report.findings == []


def test_one_flipped_byte_is_found(tmp_path):
    write(tmp_path, 600)
    bundle = tmp_path / "tile" / "entries" / "001"
    data = bytearray(bundle.read_bytes())
    data[400] ^= 1
    bundle.write_bytes(data)
    assert verify(tmp_path).exit_code == 1


def test_entries_are_canonical_of_realistic_size_and_all_different():
    made = list(entries(HEARTBEAT_RECORDS + 2, SIGNER.name, str(SIGNER.verifier), START_NS))
    assert len(set(made)) == HEARTBEAT_RECORDS + 2
    for entry in (*made[:50], *made[-3:]):
        check(entry)
    assert b'"kind":"heartbeat"' in made[HEARTBEAT_RECORDS]
    assert 900 <= len(made[1]) <= 1500


def test_progress_reaches_the_end(tmp_path):
    seen = []
    write_log(tmp_path, 300, SIGNER, START_NS, seen.append)
    assert seen == [256, 300]
