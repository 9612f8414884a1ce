"""The report: whatever people and callers wrote, it stays text; and every line names its entry."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ops.audit.log.checkpoint import Checkpoint
from ops.incidents.report import markdown, moment
from ops.incidents.timeline import Register, Scope, Timeline
from tests.ops.incidents.test_timeline import FLAGGED, T, asked, other

HEAD = Checkpoint("example.test/log", 900, b"\x07" * 32)


def report(*entries: bytes, **scope) -> str:
    timeline, register = Timeline(Scope(**scope)), Register()
    for index, entry in enumerate(entries, 100):
        timeline.add(index, entry)
        register.add(index, entry)
    return markdown(timeline, HEAD, next(iter(register.incidents.values()), None))


def cells(text: str) -> list[list[str]]:
    """The rows of all tables."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and token.level >= 4:
            rows[-1].append("".join(child.content for child in token.children or ()))
    return rows


def test_everything_stands_there_with_its_entry():
    text = report(
        other("policy", 0, outcome="loaded", digest="2" * 64),
        other("incident", 10, suspects=["tenant:store-7"]),
        asked(11, screens=[FLAGGED], decision="flag"),
        other("isolation", 12),
        from_ns=T + 5,
    )
    assert text.startswith("# Incident i-1\n")
    assert f"root `{'07' * 32}`" in text
    assert f"policy in force when it began: `{'2' * 64}`, entry 100" in text
    rows = cells(text)
    assert ["103", moment(T + 12), "isolation"] == rows[2][:3]
    assert next(row for row in rows if row[0] == "store-7")[:3] == ["store-7", "kiosk/1", "1"]
    assert ["AML.T0015", "evidence", "flag", "1"] in rows


def test_an_empty_one():
    text = report()
    assert "Nothing but requests." in text
    assert "None." in text
    assert moment(2**63 - 1) == "now"


written = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60)


hostile = st.sampled_from(["a | b", "<b>x</b>", "[x](http://e)", "![i](x)", "# h", "`c`", "---", "&lt;", "1. x"])


@given(written | hostile)
def test_what_somebody_wrote_stays_text(reason):
    text = report(other("incident", 10, reason=reason), other("policy", 11, reason=reason))
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    tokens = [each for token in blocks for each in (token, *(token.children or ()))]
    kinds = {each.type for each in tokens}
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "hr", "fence", "blockquote_open"}
    assert len([each for each in tokens if each.type == "heading_open"]) == 6
    assert {len(row) for row in cells(text)} <= {4, 8}
