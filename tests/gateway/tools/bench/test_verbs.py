import json
import subprocess
import sys

import pytest

from gateway.cli.main import main
from gateway.tools.bench import audit, h2load, peers, verify
from gateway.tools.bench.workspace import workspace

needs_h2load = pytest.mark.skipif(h2load.missing() is not None, reason=str(h2load.missing()))


def bench(*arguments):
    return main(["bench", *arguments])


def test_the_verifier_is_timed_on_a_log_that_verifies(tmp_path, capsys):
    report = tmp_path / "report.json"
    assert bench("verify", "--records", "700", "--report", str(report), "--workspace", str(tmp_path)) == 0
    written = json.loads(report.read_text())
    assert (written["records"], written["exit_code"], written["findings"]) == (700, 0, [])
    assert written["verify_records_per_s"] > 0
    assert "700 records of" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [report]


def test_a_log_that_does_not_verify_is_no_measurement(tmp_path, monkeypatch, capsys):
    def write_and_flip(directory, *arguments):
        write_log(directory, *arguments)
        bundle = directory / "tile" / "entries" / "000"
        bundle.write_bytes(bundle.read_bytes()[:-1] + b"]")

    write_log = verify.write_log
    monkeypatch.setattr(verify, "write_log", write_and_flip)
    assert bench("verify", "--records", "256", "--workspace", str(tmp_path)) == 1
    assert "tampered" in capsys.readouterr().out


LITTLE = ["--seconds", "0.3", "--payloads", "100", "--tail-mib", "1", "--records", "700"]
OF_GATEWAYS = {"gateway_p99_added_ms", "overload_memory_mib", "overload_unrecorded", "replay_r1", "replay_r2"}


def test_the_audit_log_is_timed_with_its_aims_beside(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(h2load, "missing", lambda: "h2load is not installed")
    report = tmp_path / "report.json"
    store = tmp_path / "store"
    more = ["--store", store.as_uri(), "--report", str(report), "--workspace", str(tmp_path)]
    assert bench("audit", *LITTLE, *more) == 0
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
def test_what_gateways_counted_is_recorded_and_what_they_recorded_replays(tmp_path):
    report = tmp_path / "report.json"
    with workspace(None) as directory:  # a short path, as sockets need it
        more = ["--requests", "100", "--overload", "1", "--workspace", str(directory)]
        assert bench("audit", *LITTLE, *more, "--report", str(report)) == 0
    written = json.loads(report.read_text())
    assert audit.AIMS.keys() - written.keys() == {"restore_store_1m_s"}
    assert (written["overload_refused"] > 0, written["overload_unrecorded"]) == (True, 0)
    assert (written["replay_requests"] >= 100, written["replay_r1"], written["replay_r2"]) == (True, 100, 100)


@needs_h2load
@pytest.mark.slow
def test_memory_is_watched_on_a_real_gateway(tmp_path):
    report = tmp_path / "report.json"
    arguments = ["--requests", "600", "--workspace", str(tmp_path), "--report", str(report)]
    command = [sys.executable, "-m", "gateway", "bench", "memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    processes = json.loads(report.read_text())["processes"]
    assert {name.split(" ")[0] for name in processes} == {"all", "recorder", "supervisor", "worker"}
    assert all(process["least_mib"] > 5 for process in processes.values())


@needs_h2load
@pytest.mark.slow
def test_our_gateway_is_measured_in_each_of_its_settings(tmp_path):
    targets = ("protected", "protected_tls", "unprotected")
    options = ["--rounds", "1", "--seconds", "0.3", "--json", "--workspace", str(tmp_path)]
    command = [sys.executable, "-m", "gateway", "bench", "serve", "--targets", ",".join(targets), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert [target for target in targets if not report[f"{target}_rps"]["256"] > 0] == []


def test_peers_are_listed_with_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "default_root", lambda: tmp_path)
    assert bench("peers", "--only", "ray,triton") == 1
    shown = capsys.readouterr().out
    assert "ray is not installed" in shown
    assert "triton is not installed" in shown
    assert "mlserver" not in shown


def test_a_peer_that_does_not_exist_is_named(capsys):
    assert bench("peers", "--only", "tensorflow") == 2
    assert "tensorflow" in capsys.readouterr().out
