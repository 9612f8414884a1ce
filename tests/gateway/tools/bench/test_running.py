import os
import socket
import sys

import pytest

from gateway.tools.bench import running as module
from gateway.tools.bench.frame import echo_reply, image_request
from gateway.tools.bench.peers import script
from gateway.tools.bench.running import Endpoint, Launch, StartFailed, free_pair, free_ports, running


@pytest.fixture
def echo(tmp_path):
    (port,) = free_ports(1)
    reply = tmp_path / "reply"
    reply.write_bytes(echo_reply("kiosk"))
    command = [sys.executable, str(script("echo.py")), "--port", str(port), "--reply", str(reply)]
    return Launch(command, Endpoint(port), tmp_path / "echo")


def exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_runs_until_the_end_of_the_block_and_no_longer(echo, image):
    with running(echo, image_request("kiosk", image)) as server:
        (pid,) = server.tree.living()
        assert server.reply_bytes == len(echo_reply("kiosk"))
        assert os.getpgid(pid) == pid != os.getpgid(0)
    assert not exists(pid)


def test_a_server_is_stopped_when_the_block_raises(echo, image):
    seen = []

    def look_and_raise():
        with running(echo, image_request("kiosk", image)) as server:
            seen.extend(server.tree.living())
            raise KeyError

    with pytest.raises(KeyError):
        look_and_raise()
    (pid,) = seen
    assert not exists(pid)


def test_what_a_server_leaves_behind_is_stopped_too(echo, image, tmp_path):
    daemon = "subprocess.Popen(['sleep', '600'], start_new_session=True)"
    become = f"os.execv({sys.executable!r}, {list(echo.command)!r})"
    command = [sys.executable, "-c", f"import os, subprocess; {daemon}; {become}"]
    launch = Launch(command, echo.endpoint, tmp_path / "daemon")
    with running(launch, image_request("kiosk", image)) as server:
        assert len(server.tree.living()) == 2
    assert server.tree.living() == {}


def test_a_server_that_ends_at_once_has_failed_and_says_why(tmp_path, image):
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    launch = Launch(command, Endpoint(free_ports(1)[0]), tmp_path / "broken", attempts=2)
    with pytest.raises(StartFailed) as caught, running(launch, image_request("kiosk", image)):
        pass
    assert caught.value.log_tail.splitlines() == ["no such model"] * 2


def test_a_server_that_never_answers_has_failed(tmp_path, image):
    launch = Launch(["sleep", "600"], Endpoint(free_ports(1)[0]), tmp_path / "mute", start_seconds_max=0.3)
    with pytest.raises(StartFailed, match="did not answer"), running(launch, image_request("kiosk", image)):
        pass


def test_a_server_that_answers_with_something_else_has_failed(echo, tmp_path, image):
    (tmp_path / "reply").write_bytes(b"not a prediction")
    launch = Launch(echo.command, echo.endpoint, tmp_path / "wrong", start_seconds_max=3.0)
    with pytest.raises(StartFailed), running(launch, image_request("kiosk", image)):
        pass


def test_a_port_whose_neighbour_is_taken_is_not_one_of_a_pair(monkeypatch):
    good = free_pair()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        offered = iter([[taken.getsockname()[1] - 1], [65535], [good]])
        monkeypatch.setattr(module, "free_ports", lambda _: next(offered))
        assert free_pair() == good
