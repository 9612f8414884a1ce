"""An incident's timeline as Markdown, for the post-mortem. Pure; every line names the entry that proves it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from ops.audit.log.checkpoint import Checkpoint
from ops.incidents.timeline import FOR_EVER_NS, Affected, Opened, Timeline

ROWS_MAX = 200
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#|~!&])")


def moment(time_ns: int) -> str:
    """Return a point in time, UTC; the end of all times is "now"."""
    if time_ns >= FOR_EVER_NS:
        return "now"
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def plain(text: str) -> str:
    """Return a text so that Markdown shows it as it is: whoever wrote a reason must not write the report."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def markdown(timeline: Timeline, head: Checkpoint, incident: Opened | None) -> str:
    """Return the report. `head` is the checkpoint that the entries were shown to lead to."""
    return "\n".join([*_front(timeline, head, incident), *_happenings(timeline), *_affected(timeline), *_rest()]) + "\n"


def _front(timeline: Timeline, head: Checkpoint, incident: Opened | None) -> Iterator[str]:
    scope = timeline.scope
    yield f"# {f'Incident {plain(incident.name)}' if incident is not None else 'Timeline'}"
    yield ""
    if incident is not None:
        state = "open" if incident.closed_index is None else f"closed, entry {incident.closed_index}"
        by = f"opened by {plain(incident.administrator)} at {moment(incident.time_ns)}, entry {incident.index}"
        yield f"- why: {plain(incident.reason)}"
        yield f"- {by}; {state}"
        if incident.suspects:
            yield f"- suspected: {', '.join(map(plain, incident.suspects))}"
    yield f"- range: {moment(scope.from_ns)} to {moment(scope.until_ns)}, {timeline.in_range:,} entries"
    yield f"- proof: all {head.size:,} entries of {plain(head.origin)} lead to root `{head.root.hex()}`"
    before = timeline.before()
    if before is not None:
        yield f"- policy in force when it began: `{before[2]}`, entry {before[0]}"
    if timeline.models:
        served = (
            f"{plain(name)}/{plain(version)} (entry {at})" for (name, version), at in sorted(timeline.models.items())
        )
        yield f"- models in service when it began: {', '.join(served)}"


def _happenings(timeline: Timeline) -> Iterator[str]:
    yield from ("", "## What happened", "")
    if not timeline.happenings:
        yield "Nothing but requests."
        return
    yield from ("| entry | when | what | |", "|---|---|---|---|")
    for each in timeline.happenings:
        yield f"| {each.index} | {moment(each.time_ns)} | {each.kind} | {plain(each.what)} |"
    if timeline.left_out:
        yield from ("", f"And {timeline.left_out:,} more.")


def _affected(timeline: Timeline) -> Iterator[str]:
    yield from ("", "## Requests", "")
    rows = sorted(timeline.affected.items(), key=lambda one: -one[1].requests)
    if not rows:
        yield "None."
        return
    yield from (
        "| tenant | model | requests | rows | callers | ended | why | entries |",
        "|---|---|---|---|---|---|---|---|",
    )
    for (tenant, model, version), each in rows[:ROWS_MAX]:
        yield _row(tenant, f"{model}/{version}" if model else "", each)
    if len(rows) > ROWS_MAX:
        yield from ("", f"And {len(rows) - ROWS_MAX:,} more groups.")
    if found := timeline.verdicts():
        yield from ("", "| technique | screen | verdict | requests |", "|---|---|---|---|")
        for (technique, screen, verdict), count in found.most_common():
            yield f"| {plain(technique)} | {plain(screen)} | {verdict} | {count:,} |"


def _row(tenant: str, model: str, each: Affected) -> str:
    cells = [
        plain(tenant) or "(strangers)",
        plain(model) or "(none reached)",
        f"{each.requests:,}",
        f"{each.rows:,}",
        f"{len(each.principals):,}",
        _counts(each.outcomes),
        _counts(each.reasons),
        f"{each.first_index} to {each.last_index}",
    ]
    return f"| {' | '.join(cells)} |"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{plain(name)} {count:,}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))


def _rest() -> Iterator[str]:
    """What people have to write themselves."""
    for head in ("What it did to whom", "Why it was possible", "What is changed so that it does not happen again"):
        yield from ("", f"## {head}", "", "…")
