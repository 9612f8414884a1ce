"""Incidents as operators see them: it fits a terminal, says everything, and nobody's words colour it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gateway.tools.incident.read import Story
from gateway.tools.incident.view import as_json, render_incidents, render_steps, render_story
from ops.incidents.timeline import Register, Scope, Timeline
from tests.ops.incidents.test_report import HEAD
from tests.ops.incidents.test_timeline import FLAGGED, asked, other

WIDTH = 80
HOSTILE = "[red]near[/red] repeats, three accounts that move together"


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=WIDTH, highlight=False)


def seen(console) -> str:
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    return text


def test_what_happened(console):
    timeline, register = Timeline(Scope()), Register()
    entries = [
        other("incident", 1, reason=HOSTILE, suspects=["principal:store-7/" + "a" * 32]),
        asked(2, screens=[FLAGGED], decision="flag"),
        other("isolation", 3, reason=HOSTILE),
    ]
    for index, entry in enumerate(entries):
        timeline.add(index, entry)
        register.add(index, entry)
    story = Story(HEAD, timeline, register.incidents["i-1"])
    render_incidents(register, console)
    render_story(story, console)
    text = seen(console)
    for word in (
        "i-1",
        "open, 1 acts",
        "principal:store-7/",
        "isolation: isolated",
        "entries 1 to 1",
        "[red]near[/red]",
    ):
        assert word in text, word
    told = as_json(story)
    assert [one["index"] for one in told["happenings"]] == [0, 2]
    assert told["requests"][0]["verdicts"] == {"AML.T0015 evidence flag": 1}


def test_nothing(console):
    render_steps([], console)
    render_incidents(Register(), console)
    render_story(Story(HEAD, Timeline(Scope()), None), console)
    text = seen(console)
    for word in ("nothing is to be taken back", "knows no incident", "nothing happened but requests", "no requests"):
        assert word in text, word
