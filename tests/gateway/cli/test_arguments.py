"""What is read from the command line, at its limits and one past, and what is said of the rest."""

from __future__ import annotations

import pytest
from typer import BadParameter

from gateway.cli.arguments import Moment, ago, caller, decimal, first_port, lasting, moment, seconds, whole
from gateway.cli.main import main


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("9", 9), ("007", 7)])
def test_whole_numbers_between_their_limits(text, value):
    assert whole(1, 9)(text) == value


@pytest.mark.parametrize("text", ["0", "10", "-1", "", "x", "1.5", "1e3", "1_0", " 1", "٣", "9" * 5000])
def test_what_is_no_such_number_is_told_the_limits(text):
    with pytest.raises(BadParameter, match=r"is not a whole number from 1 to 9$"):
        whole(1, 9)(text)


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("2", 2.0), ("1e0", 1.0)])
def test_numbers_between_their_limits(text, value):
    assert decimal(0.5, 2)(text) == value


@pytest.mark.parametrize("text", ["0.49", "2.01", "nan", "inf", "", "x"])
def test_what_is_no_such_decimal_is_told_the_limits(text):
    with pytest.raises(BadParameter, match=r"is not a number from 0.5 to 2$"):
        decimal(0.5, 2)(text)


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("1", 1), ("65532", 65_532)])
def test_first_ports(text, value):
    assert first_port(text) == value


@pytest.mark.parametrize("text", ["-1", "65533", "x", ""])
def test_what_is_no_first_port(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["init", "nowhere", f"--port={text}"])
    assert stopped.value.code == 2
    said = f"--port: {text!r} is not the first of four ports; write 1 to 65532, or 0 for any free ones"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("1.5", 1.5), ("3600", 3600.0)])
def test_seconds_between_their_limits(text, value):
    assert seconds(text, 0, 3600) == value


@pytest.mark.parametrize("text", ["-0.1", "3600.1", "nan", "inf", "soon", ""])
def test_what_is_no_such_duration(text):
    with pytest.raises(BadParameter, match=r"is not a number of seconds from 0 to 3,600$"):
        seconds(text, 0, 3600)


S = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "at_ns"),
    [
        ("1970-01-02", 86_400 * S),
        ("1970-01-02T00:00:01Z", 86_401 * S),
        ("1970-01-02T00:00:01.9Z", 86_401 * S + 900_000_000),
        ("1970-01-02T02:00:00+02:00", 86_400 * S),
    ],
)
def test_moments(text, at_ns):
    assert moment(text) == ago(text) == Moment(at_ns=at_ns)
    assert moment(text).of(5) == at_ns


@pytest.mark.parametrize("text", ["", "yesterday", "2027-11-24T08:00:00", "2027-13-01", "0"])
def test_what_is_no_moment(text):
    for read in (moment, ago):
        with pytest.raises(BadParameter):
            read(text)


def test_how_long_ago():
    assert ago("2h").of(10_000 * S) == 2_800 * S
    assert lasting("30m") == 1_800 * S
    for text in ("0s", "-1s", "2", "soon", "999999999999999d"):
        with pytest.raises(BadParameter):
            lasting(text)


def test_callers_as_the_log_calls_them():
    assert caller("store-7/" + "ab" * 16) == ("store-7", "ab" * 16)
    for text in ("ab" * 16, "/" + "ab" * 16, "store-7/" + "AB" * 16, "store-7/ab", "store-7/"):
        with pytest.raises(BadParameter):
            caller(text)


@pytest.mark.parametrize(
    "words",
    [
        ["tenants", "isolate", "FILE", "--tenant", "a"],
        ["tenants", "isolate", "FILE", "--tenant", "a", "--reason", "r", "--for", "1h", "--until", "2027-01-01"],
        ["incident", "open", "FILE", "--reason", "r"],
        ["quarantine", "reject", "FILE", "--reason", "r"],
        ["quarantine", "list", "FILE", "-n", "1001"],
    ],
)
def test_what_is_missing_or_too_much_is_said(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
