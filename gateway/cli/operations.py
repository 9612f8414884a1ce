"""What an operator asks of a running gateway over its admin port: one table.

A row is a command. From it follow its options and their help, the request, the call, what people and machines see of
the answer, and the page in docs/reference. A question is put into the field of the request that has its name; what is
not a field of the request is for the row's `effect`. Functions named by a row are those of `gateway.cli.answers`, which
is imported when a command runs.

Exit codes: 0 done; 1 the answer is no; 2 it cannot be asked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import typer

from gateway.cli import effects
from gateway.cli.arguments import (
    CA,
    FILE,
    IDENTITY,
    INCIDENT,
    INDEX_MAX,
    JSON,
    PRINCIPALS,
    PSEUDONYMS,
    REASON,
    TENANTS,
    Caller,
    Moment,
    ago,
    argument,
    command,
    epoch,
    group,
    lasting,
    moment,
    option,
    whole,
)

ENTRIES_MAX = 65_536
COUNT_MAX = 1_000
ID_MAX = 2**62
CODES = "Exit codes: 0 done; 1 the answer is no; 2 it cannot be asked."


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of whoever types the command: the name of the value, its type, its argument or option."""

    name: str
    kind: Any
    option: Any


def whole_answer(reply: Any) -> Any:
    """Show machines all of an answer, by the names of its fields."""
    return reply


@dataclass(frozen=True, slots=True)
class Operation:
    """One call over the admin port.

    Attributes:
        path: of the command, such as "tenants list".
        text: what it does.
        call: service and method of `stockade.v1`.
        asks: its questions, beside those of every operation (FILE, --identity, --ca, --json).
        fixed: fields of the request that the command itself says.
        effect: completes the request, or refuses to ask.
        keep: takes what is not shown out of the answer.
        tables: what people see: tables of `gateway.cli.answers`, each with the field that has its rows.
        view: what people see that is no table, of `gateway.cli.answers`.
        says: what people read below.
        facts: what machines see.
        outcome: whether the answer is no: returns the exit code. People then see nothing else of an answer that says
            itself that it is not `accepted`.
        epilog: stands below its help.
    """

    path: str
    text: str
    call: str
    asks: tuple[Ask, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    effect: Callable[[Any, SimpleNamespace], None] | None = None
    keep: Callable[[Any, SimpleNamespace], None] | None = None
    tables: tuple[tuple[str, str], ...] = ()
    view: str = ""
    says: Callable[[Any, SimpleNamespace], str] | None = None
    facts: Callable[[Any], Any] = whole_answer
    outcome: Callable[[Any, SimpleNamespace], int] = effects.accepted
    epilog: str | None = None


def decided(word: str) -> Callable[[Any, SimpleNamespace], str]:
    """Return what says how many entries were decided on."""
    return lambda _, asked: f"{word}: {len(set(asked.entries))}"


def changed(word: str) -> Callable[[Any, SimpleNamespace], str]:
    """Return what says how many labels were decided on, of those that were named."""
    return lambda reply, asked: f"{word}: {reply.changed} of {len(set(asked.ids))}"


WHY = Ask("reason", str, REASON)
CASE = Ask("incident", str, INCIDENT)
SUBJECTS = (Ask("tenant", list[str], TENANTS), Ask("principal", list[str], PRINCIPALS), WHY, CASE)
CALLERS = Ask("pseudonym", list[Caller], PSEUDONYMS)
WHEN = "2027-11-24T08:00:00Z, or how long ago: 2h"
UNTIL = option("--until WHEN", "default: it is going on", None, ago)
SUSPECT_TENANT = option("--tenant NAME", "", [])
SUSPECT_MODEL = option("--model NAME[/VERSION]", "", [])
AN_ID = "as `list` shows it"
COUNT = option("-n, --count N", "default: 50", 50, whole(1, COUNT_MAX))
ENTRIES = Ask("entries", list[int], argument("ENTRY", "numbers in the log", read=whole(0, INDEX_MAX)))
LABELS = Ask("ids", list[int], argument("ID", f"{AN_ID}; at most 50", read=whole(1, ID_MAX)))
Labelled = Literal["accepted", "quarantined", "released", "rejected", "taken", "learned", "dropped"]
REVIEW = "FeedbackReview"
RELOAD_FACTS = ("accepted", "digest", "previous_digest", "problem")

OPERATIONS = (
    Operation("policy reload", "Ask a running gateway, over its admin port, to take the policy over.",
        "Admin/ReloadPolicy", says=lambda reply, _: f"in force: {reply.digest} (was {reply.previous_digest})",
        facts=lambda reply: {name: getattr(reply, name) for name in RELOAD_FACTS}, outcome=effects.reloaded),
    Operation("models compare", "Show how the versions of models under release do.",
        "Admin/Status", view="releases", facts=lambda reply: list(reply.releases)),
    Operation("tenants list", "Show the tenants, and who is kept out.", "Admin/ListTenants",
        tables=(("tenants", "tenants"), ("isolations", "isolations"))),
    Operation("tenants show", "Show one: its limits, principals, and what it asked lately.", "Admin/ShowTenant", (
        Ask("tenant", str, argument("TENANT")),
        Ask("entries_max", int, option("--entries N",
            "how many of the log's newest entries are looked at (default: 20,000)", 20_000, whole(1, ENTRIES_MAX))),
    ), view="tenant"),
    Operation("tenants isolate", "Keep tenants or principals out, at once and durably.", "Admin/Isolate", (
        *SUBJECTS, CALLERS,
        Ask("lasting", int | None, option("--for TIME", "such as 2h (default: for good)", None, lasting)),
        Ask("until", Moment | None, option("--until WHEN", "such as 2027-11-24T08:00:00Z", None, moment)),
    ), effect=effects.isolate, tables=(("isolations", "isolations"),), outcome=effects.followed),
    Operation("tenants release", "Let them in again.", "Admin/LiftIsolation", (
        *SUBJECTS, Ask("ids", list[str], option("--id ID", AN_ID, [])),
    ), effect=effects.lift, says=lambda _, asked: f"let in again: {len(asked.ids)}", outcome=effects.followed),
    Operation("tenants forgive", "Forget what the watches hold against accounts.", "Admin/ForgiveAccounts",
        (*SUBJECTS, CALLERS), effect=effects.name_subjects,
        says=lambda reply, _: f"forgiven: {reply.principals} principals"),
    Operation("incident open", "Name an incident: who and what is suspected, and since when.", "Admin/NoteIncident", (
        WHY,
        Ask("since", Moment, option("--from WHEN", WHEN, read=ago)),
        Ask("until", Moment | None, UNTIL),
        Ask("tenant", list[str], SUSPECT_TENANT),
        Ask("principal", list[str], option("--principal NAME", "", [])),
        CALLERS,
        Ask("models", list[str], SUSPECT_MODEL),
    ), fixed={"action": "opened"}, effect=effects.open_incident, says=lambda reply, _:
        f"opened {reply.incident}\nnext: stockade incident timeline LOG --incident {reply.incident}"),
    Operation("incident close", "Say that it is over.", "Admin/NoteIncident", (
        Ask("incident", str, argument("ID")), WHY,
    ), fixed={"action": "closed"}, effect=effects.close_incident, says=lambda reply, _: f"closed {reply.incident}"),
    Operation("quarantine list", "Show what screens found and nobody has looked at.", "Admin/ListQuarantine", (
        Ask("state", Literal["waiting", "released", "rejected", "all"],
            option("--state", "default: waiting", "waiting")),
        Ask("tenant", str, option("--tenant NAME", default="")),
        Ask("model", str, option("--model NAME", "", "")),
        Ask("count_max", int, COUNT),
    ), effect=effects.any_state, tables=(("quarantine", "items"),), says=lambda reply, _:
        f"{reply.waiting:,} wait; {reply.dropped:,} were given up unseen, because there were too many"),
    Operation("quarantine show", "Show one, with what was sent where that was kept.", "Admin/ShowQuarantined", (
        Ask("entry", int, argument("ENTRY", "its number in the log", read=whole(0, INDEX_MAX))),
        Ask("payload", Path | None,
            option("--payload FILE", "write the request, a ModelInferRequest, to this file", None)),
    ), keep=effects.keep_request, tables=(("quarantine", "item"),), outcome=effects.request_kept, says=lambda reply, _:
        f"principal {reply.item.principal} of {reply.item.tenant}, request {reply.item.request_id}"),
    *(
        Operation(f"quarantine {decision}", text, "Admin/DecideQuarantined", (ENTRIES, WHY, CASE),
            fixed={"decision": decision}, outcome=effects.decided,
            says=decided(decision))
        for decision, text in (
            ("release", "Say that it was honest."),
            ("reject", "Say that it was an attack, or nothing for this model."),
        )
    ),
    Operation("feedback list", "Show labels, and what is held of them.", f"{REVIEW}/ListItems", (
        Ask("model", str, option("--model NAME", "of this model", "")),
        Ask("tenant", str, option("--tenant NAME", "of this tenant", "")),
        Ask("state", Labelled | None, option("--state", "in this state", None)),
        Ask("count_max", int, option("--count N", "at most (default: 100)", 100, whole(1, COUNT_MAX))),
        Ask("after", int, option("--after ID", "go on behind this one", 0, whole(0, ID_MAX))),
    ), tables=(("labels", "items"),)),
    Operation("feedback show", "Show everything about one label.", f"{REVIEW}/ListItems", (
        Ask("id", int, argument("ID", AN_ID, read=whole(1, ID_MAX))),
    ), keep=effects.demand_label, view="label", facts=lambda reply: reply.items[0]),
    *(
        Operation(f"feedback {decision}", text, f"{REVIEW}/DecideItems", (LABELS, WHY),
            fixed={"decision": decision}, outcome=effects.all_changed,
            says=changed(done))
        for decision, done, text in (
            ("release", "released", "Let labels out of quarantine: somebody looked at them."),
            ("reject", "rejected", "Throw labels away."),
        )
    ),
    Operation("feedback status", "Show how many there are, and how versions agree with them.",
        f"{REVIEW}/FeedbackStatus", view="label_status"),
    Operation("audit erase request", "Ask that a subject's keys be destroyed.", "Erasure/Request", (
        Ask("tenant", str, option("--tenant NAME")),
        Ask("subject", str, option("--subject NAME", "the principal whose payloads they are")),
        Ask("months", list[str], option("--month YYYY-MM", "only of this month; repeat it (default: all)", [])),
        WHY,
    ), says=lambda reply, asked:
        f"asked for: {len(reply.erasure.keys)} keys would be destroyed. Another administrator says:\n"
        f"stockade audit erase approve {asked.file} {reply.erasure.id}", epilog=CODES),
    Operation("audit erase approve", "Agree to what another asked for: the keys are destroyed.", "Erasure/Approve", (
        Ask("id", str, argument("ID", AN_ID)),
    ), says=lambda reply, _: f"destroyed: {len(reply.erasure.keys)} keys; the log says so", epilog=CODES),
    Operation("audit erase list", "Show what was asked for and what was destroyed.", "Erasure/List", (
        Ask("count_max", int, COUNT),
    ), tables=(("erasures", "erasures"),), epilog=CODES),
    Operation("audit erase show", "Show one, with the references of its keys.", "Erasure/Show", (
        Ask("id", str, argument("ID", AN_ID)),
    ), tables=(("erasures", "erasure"),), says=lambda reply, _: "\n".join([
        f"the subject in the log: {reply.erasure.pseudonym}", "keys, as entries have them in `payload.key`:",
        *reply.erasure.keys]), epilog=CODES),
    Operation("audit hold set", "Let nothing of a subject, or of a tenant, be erased.", "LegalHold/Set", (
        Ask("tenant", str, option("--tenant NAME")),
        Ask("subject", str, option("--subject NAME", "default: the whole tenant", "")),
        Ask("matter", str, option("--matter TEXT", "what for; it stands in the audit log")),
    ), tables=(("holds", "hold"),), epilog=CODES),
    Operation("audit hold release", "Lift a hold.", "LegalHold/Release", (
        Ask("id", str, argument("ID", AN_ID)), WHY,
    ), says=lambda *_: "lifted", epilog=CODES),
    Operation("audit hold list", "Show the holds in force.", "LegalHold/List",
        tables=(("holds", "holds"),), epilog=CODES),
    Operation("audit payload", "Open a payload that was kept; who reads it is recorded.", "Payloads/Read", (
        Ask("entry", int, argument("INDEX", "its entry's number in the log", read=whole(0, INDEX_MAX))),
        Ask("epoch", int | None, epoch("INDEX counts over all")),
        Ask("field", Literal["request", "response"], option("--field", "default: request", "request")),
        Ask("out", Path, option("--out FILE", "where it goes; made, mode 0600")),
        WHY,
    ), effect=effects.name_payload, keep=effects.keep_payload, outcome=effects.payload_kept, says=lambda reply, asked:
        "" if reply.problem else f"written: {asked.out}, {asked.size:,} bytes",
        epilog="Exit codes: 0 done; 1 the answer is no; 2 it cannot be asked, or written. 4: wrong usage."),
)  # fmt: skip
GROUPS = {
    "audit erase": "destroy the keys of a subject's payloads; it takes two administrators",
    "audit hold": "legal holds: what may not be erased",
}


def add_to(app: typer.Typer, above: str) -> None:
    """Add the operations below a path, such as "tenants", to its group of commands."""
    inner: dict[str, typer.Typer] = {}
    for operation in OPERATIONS:
        words = operation.path.split()
        if words[: len(above.split())] != above.split():
            continue
        parent = app
        if len(words) > 2:
            path = " ".join(words[:2])
            if path not in inner:
                inner[path] = group(GROUPS[path])
                app.add_typer(inner[path], name=words[1], short_help=GROUPS[path])
            parent = inner[path]
        command(parent, words[-1], epilog=operation.epilog)(function_of(operation))


def function_of(operation: Operation) -> Any:
    """Return the function of an operation, with the signature that Typer reads."""

    def run(**values: Any) -> int:
        code: int = import_module("gateway.cli.answers").perform(operation, SimpleNamespace(**values))
        return code

    asks = [
        Ask("file", Path, FILE),
        *operation.asks,
        Ask("identity", Path | None, IDENTITY),
        Ask("ca", Path | None, CA),
        Ask("json", bool, JSON),
    ]
    run.__doc__ = operation.text
    run.__annotations__ = {each.name: each.kind for each in asks}
    by_name = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(each.name, by_name, default=each.option, annotation=each.kind) for each in asks]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


app = group("")
for name, text in (
    ("tenants", "who calls a running gateway, and who is kept out"),
    ("quarantine", "what screens found, for people to look at"),
):
    part = group(text)
    add_to(part, name)
    app.add_typer(part, name=name)
