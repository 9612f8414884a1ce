"""What the verbs of operators read: moments, durations, and callers as the log calls them."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from gateway.cli.main import main
from gateway.tools.tenant_arguments import Moment, ago, called, lasting, moment

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
        with pytest.raises(ArgumentTypeError):
            read(text)


def test_how_long_ago():
    assert ago("2h").of(10_000 * S) == 2_800 * S
    assert lasting("30m") == 1_800 * S
    for text in ("0s", "-1s", "2", "soon", "999999999999999d"):
        with pytest.raises(ArgumentTypeError):
            lasting(text)


def test_callers_as_the_log_calls_them():
    assert called("store-7/" + "ab" * 16) == ("store-7", "ab" * 16)
    for text in ("ab" * 16, "/" + "ab" * 16, "store-7/" + "AB" * 16, "store-7/ab", "store-7/"):
        with pytest.raises(ArgumentTypeError):
            called(text)


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
