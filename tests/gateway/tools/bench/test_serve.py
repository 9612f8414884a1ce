import json
import subprocess
import sys

import pytest

from gateway.cli.main import main
from gateway.tools.bench import h2load, peers
from gateway.tools.bench.serve import Plan, measure_all
from gateway.tools.bench.targets import TARGETS, Place
from gateway.tools.samples import bundles_directory

needs_h2load = pytest.mark.skipif(h2load.missing() is not None, reason=str(h2load.missing()))


def plan(tmp_path, *targets, rounds=1):
    return Plan(
        targets=targets,
        rounds=rounds,
        seconds=0.3,
        warm_up_s=0.2,
        directory=tmp_path,
        bundles=bundles_directory(),
        peers=tmp_path / "peers",
        no_private_network="no network of its own",
    )


@needs_h2load
def test_a_short_run_measures_the_echo_and_skips_what_is_not_installed(tmp_path):
    steps = []
    results = measure_all(plan(tmp_path, "echo", "triton", rounds=2), lambda text, cells: steps.append((text, cells)))
    assert {each: len(rounds) for each, rounds in results.cells["echo"].items()} == {1: 2, 32: 2, 256: 2}
    assert all(cell.rps > 0 and cell.cpu_us > 0 for rounds in results.cells["echo"].values() for cell in rounds)
    assert "bench peers --install" in results.skipped["triton"]
    assert results.failed == {}
    assert sum(cells for _text, cells in steps) == 12


@needs_h2load
def test_a_target_that_does_not_start_fails_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "script", lambda name: tmp_path / name)
    results = measure_all(plan(tmp_path, "echo", rounds=2), lambda _text, _cells: None)
    assert results.cells == {}
    assert "echo.py" in results.failed["echo"]


@needs_h2load
def test_the_verb_writes_a_report(tmp_path):
    report = tmp_path / "out" / "report.json"
    arguments = ["--targets", "echo", "--rounds", "1", "--seconds", "0.2", "--workspace", str(tmp_path)]
    # In a process of its own: the verb moves its process into a network without a way back.
    command = [sys.executable, "-m", "gateway", "bench", "serve", *arguments, "--report", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "grpc.aio echo" in done.stdout
    written = json.loads(report.read_text())
    assert written["echo_rps"]["256"] > 0
    assert written["protected_over_ray"]["256"] is None
    assert written["method"]["in_flight"] == {
        "1": "1 connections x 1",
        "32": "4 connections x 8",
        "256": "8 connections x 32",
    }
    assert set(written["details"]) == {"echo"}
    assert "cores" in written["machine"]
    assert written["versions"]["grpcio"]


def test_a_target_that_does_not_exist_is_named(capsys):
    assert main(["bench", "serve", "--targets", "echo,tensorflow"]) == 2
    assert "tensorflow" in capsys.readouterr().err


def test_what_listens_everywhere_needs_a_network_of_its_own(tmp_path):
    directory = tmp_path / "ray"
    directory.mkdir()
    (directory / peers.NOTE).write_text(json.dumps(peers.PEERS["ray"].requirements))
    open_place = Place(tmp_path, bundles_directory(), tmp_path, "no network of its own (operation not permitted)")
    assert "every interface" in TARGETS["ray_proxy"].missing(open_place)
    assert TARGETS["ray_proxy"].missing(Place(tmp_path, bundles_directory(), tmp_path, None)) is None


def test_a_peer_with_other_pins_asks_to_be_installed_again(tmp_path):
    assert "not installed" in peers.missing(tmp_path, "mlserver")
    (tmp_path / "mlserver").mkdir()
    (tmp_path / "mlserver" / peers.NOTE).write_text('["mlserver==1.6.0"]')
    assert "other pins" in peers.missing(tmp_path, "mlserver")
    (tmp_path / "mlserver" / peers.NOTE).write_text("{")
    assert "not installed" in peers.missing(tmp_path, "mlserver")


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_says_how_it_is_set_up(name):
    assert len(TARGETS[name].setup) > 40


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--seconds", "0.05"], ["--seconds", "nan"], ["--seconds", "3601"]]
)
def test_a_plan_has_limits(arguments, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "serve", *arguments])
    assert "is not a" in capsys.readouterr().err


def test_in_a_private_network_there_is_loopback_and_nothing_else():
    code = """
import json, socket
from gateway.tools.bench.isolation import enter_private_network
problem = enter_private_network()
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
    print(json.dumps([problem, [name for _, name in socket.if_nameindex()]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    problem, interfaces = json.loads(done.stdout)
    assert interfaces == ["lo"] if problem is None else "unshare" in problem
