import json
from itertools import islice

import pytest

from gateway.tools.bench import audit, peers
from gateway.tools.bench.audit_load import (
    HEARTBEAT_RECORDS,
    append_for,
    entries,
    listening,
    new_signer,
    records,
    write_log,
)
from gateway.tools.bench.machine import h2load_missing, workspace
from ops.audit.log.checkpoint import SignerKey
from ops.audit.log.entry import check
from ops.audit.store.client import AuditClient
from ops.audit.verify.verify import verify_log

SIGNER = SignerKey("stockade.local/bench", bytes(range(32)))
START_NS = 1_800_000_000_000_000_000
needs_h2load = pytest.mark.skipif(h2load_missing() is not None, reason=str(h2load_missing()))


def test_the_verifier_is_timed_on_a_log_that_verifies(bench, tmp_path, capsys):
    report = tmp_path / "report.json"
    options = ["verify", "--records", "700", "--report", str(report), "--workspace", str(tmp_path)]
    assert bench(*options) == 0
    written = json.loads(report.read_text())
    assert (written["records"], written["exit_code"], written["findings"]) == (700, 0, [])
    assert written["verify_records_per_s"] > 0
    assert "700 records of" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [report]


def test_a_log_that_does_not_verify_is_no_measurement(bench, tmp_path, monkeypatch, capsys):
    def write_and_flip(directory, *arguments):
        write_log(directory, *arguments)
        bundle = directory / "tile" / "entries" / "000"
        bundle.write_bytes(bundle.read_bytes()[:-1] + b"]")

    monkeypatch.setattr(audit, "write_log", write_and_flip)
    options = ["verify", "--records", "256", "--workspace", str(tmp_path)]
    assert bench(*options) == 1
    assert "tampered" in capsys.readouterr().out


LITTLE = ["--seconds", "0.3", "--payloads", "100", "--tail-mib", "1", "--records", "700"]
OF_GATEWAYS = {"gateway_p99_added_ms", "overload_memory_mib", "overload_unrecorded", "replay_r1", "replay_r2"}


def test_the_audit_log_is_timed_with_its_aims_beside(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(audit, "h2load_missing", lambda: "h2load is not installed")
    report = tmp_path / "report.json"
    store = tmp_path / "store"
    more = ["--store", store.as_uri(), "--report", str(report), "--workspace", str(tmp_path)]
    options = ["audit", *LITTLE, *more]
    assert bench(*options) == 0
    written = json.loads(report.read_text())
    assert audit.AIMS.keys() - written.keys() == OF_GATEWAYS
    assert all(written[name] > 0 for name in audit.AIMS.keys() - OF_GATEWAYS)
    assert (written["verify_records"], written["crash_start_records"] > 500) == (700, True)
    shown = capsys.readouterr().out
    assert all(f"│ {name} " in shown for name in audit.AIMS)
    assert shown.count("not measured") == len(OF_GATEWAYS)
    assert written["restore_store_files"] == written["restore_files"]
    [copied] = store.glob("bench-*")
    assert (copied / "checkpoint").exists()
    assert sorted(tmp_path.iterdir()) == [report, store]


@needs_h2load
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_gateways_counted_is_recorded_and_what_they_recorded_replays(bench, tmp_path):
    report = tmp_path / "report.json"
    with workspace(None) as directory:  # a short path, as sockets need it
        more = ["--requests", "100", "--overload", "1", "--workspace", str(directory)]
        options = ["audit", *LITTLE, *more, "--report", str(report)]
        assert bench(*options) == 0
    written = json.loads(report.read_text())
    assert audit.AIMS.keys() - written.keys() == {"restore_store_1m_s"}
    assert (written["overload_refused"] > 0, written["overload_unrecorded"]) == (True, 0)
    assert (written["replay_requests"] >= 100, written["replay_r1"], written["replay_r2"]) == (True, 100, 100)


def test_peers_are_listed_with_what_is_missing(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "default_root", lambda: tmp_path)
    options = ["peers", "--only", "ray,triton"]
    assert bench(*options) == 1
    shown = capsys.readouterr().out
    assert "ray is not installed" in shown
    assert "triton is not installed" in shown
    assert "mlserver" not in shown


def test_a_peer_that_does_not_exist_is_named(bench, capsys):
    options = ["peers", "--only", "tensorflow"]
    assert bench(*options) == 2
    assert "tensorflow" in capsys.readouterr().err


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


async def test_it_acknowledges_every_append_and_keeps_none(tmp_path):
    path, signer = tmp_path / "s", new_signer()
    with listening(path, "gateway.tools.bench.audit_load", str(path), signer.name):
        found = await append_for(path, islice(records(signer), 300), 8, lambda _done: True)
        client = AuditClient(path, backlog_bytes_max=1 << 20, append_timeout_ms=20_000)
        await client.connect()
        assert client.origin == signer.name
        await client.close()
    assert found.count == 300
    assert {each.name for each in tmp_path.iterdir()} <= {"s", "recorder.err"}
    assert (tmp_path / "recorder.err").read_text() == ""
