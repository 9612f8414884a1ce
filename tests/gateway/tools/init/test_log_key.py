import stat

import pytest

from gateway.cli.main import main
from gateway.tools.init.log_key import make_log_key
from ops.audit.log.checkpoint import parse_skey, parse_vkey

ORIGIN = "example.org/stockade-1"


def test_the_two_halves_belong_together_and_to_the_origin(tmp_path, capsys):
    out = tmp_path / "stockade-1.key"
    assert main(["keys", "log", ORIGIN, "--out", str(out)]) == 0
    signer = parse_skey(out.read_text().strip())
    public = (tmp_path / "stockade-1.vkey").read_text().strip()
    assert signer.name == ORIGIN
    assert parse_vkey(public) == signer.verifier
    assert capsys.readouterr().out == f"{public}\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_two_keys_differ(tmp_path):
    for name in ("a", "b"):
        assert main(["keys", "log", ORIGIN, "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()


@pytest.mark.parametrize("there", ["log.key", "log.vkey"])
def test_nothing_is_overwritten_and_no_half_is_left(tmp_path, capsys, there):
    (tmp_path / there).write_text("kept")
    assert main(["keys", "log", ORIGIN, "--out", str(tmp_path / "log.key")]) == 2
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {there: "kept"}
    assert "never replaced" in capsys.readouterr().err


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "a" * 245, "a/epoch-2", "a/epoch-1"])
def test_what_is_no_origin_is_refused_and_leaves_nothing(tmp_path, origin):
    with pytest.raises(ValueError, match="is not an origin"):
        make_log_key(origin, bytes(32), tmp_path / "log.key")
    assert list(tmp_path.iterdir()) == []
