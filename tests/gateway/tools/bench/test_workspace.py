import socket

import numpy as np
import pytest

from gateway.tools.bench.workspace import filesystem, first_image, workspace

HAPROXY_SOCKET_BYTES_MAX = 97
RAY_DIRECTORY_BYTES = len("/" + "0" * 64 + "/a")


def test_the_image_is_a_real_one_in_range():
    image = first_image()
    assert (image.shape, image.dtype) == ((28, 28), np.float32)
    assert image.min() == 0.0
    assert 0.5 < image.max() <= 1.0


def test_a_workspace_is_gone_afterwards(tmp_path):
    with workspace(tmp_path) as directory:
        (directory / "file").write_text("x")
        assert directory.parent == tmp_path
    assert not directory.exists()


def test_the_default_leaves_room_for_the_sockets_of_the_deepest_peer():
    with workspace(None) as directory:
        assert len(str(directory / "0.0")) + RAY_DIRECTORY_BYTES <= HAPROXY_SOCKET_BYTES_MAX


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("/dev/a / ext4 rw 0 0\n", "ext4"),
        ("/dev/a / ext4 rw 0 0\ntmpfs {here} tmpfs rw 0 0\n", "tmpfs"),
        ("/dev/a / ext4 rw 0 0\ntmpfs {here}x tmpfs rw 0 0\n", "ext4"),
        ("/dev/a / ext4 rw 0 0\ntmpfs {here} tmpfs rw 0 0\n/dev/b {here} xfs rw 0 0\n", "xfs"),
        ("/dev/a / ext4 rw 0 0\ntmpfs {here}/a\\040b tmpfs rw 0 0\n", "tmpfs"),
    ],
)
def test_the_filesystem_is_that_of_the_nearest_mount(tmp_path, mounts, kind):
    table = tmp_path / "mounts"
    table.write_text(mounts.format(here=tmp_path))
    spaced = tmp_path / "a b"
    spaced.mkdir()
    assert filesystem(spaced, table) == kind


def test_loopback_addresses_stay_on_this_machine():
    from gateway.tools.bench.running import free_ports

    ports = free_ports(4)
    assert len(set(ports)) == 4
    for port in ports:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))
