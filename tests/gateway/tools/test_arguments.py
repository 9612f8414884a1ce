"""What is read from the command line, at its limits and one past, and what is said of the rest."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from gateway.cli.main import main
from gateway.tools.arguments import decimal, first_port, seconds, whole


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("9", 9), ("007", 7)])
def test_whole_numbers_between_their_limits(text, value):
    assert whole(1, 9)(text) == value


@pytest.mark.parametrize("text", ["0", "10", "-1", "", "x", "1.5", "1e3", "1_0", " 1", "٣", "9" * 5000])
def test_what_is_no_such_number_is_told_the_limits(text):
    with pytest.raises(ArgumentTypeError, match=r"is not a whole number from 1 to 9$"):
        whole(1, 9)(text)


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("2", 2.0), ("1e0", 1.0)])
def test_numbers_between_their_limits(text, value):
    assert decimal(0.5, 2)(text) == value


@pytest.mark.parametrize("text", ["0.49", "2.01", "nan", "inf", "", "x"])
def test_what_is_no_such_decimal_is_told_the_limits(text):
    with pytest.raises(ArgumentTypeError, match=r"is not a number from 0.5 to 2$"):
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
    with pytest.raises(ArgumentTypeError, match=r"is not a number of seconds from 0 to 3,600$"):
        seconds(text, 0, 3600)
