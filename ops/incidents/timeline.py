"""What happened, from the entries of the audit log: which incidents there were, their steps, and who was affected.

Pure: entries in, counts and happenings out. Whoever feeds it has to know that the entries are those that were signed
(`ops.audit.reader.scan`). An entry's index stands beside everything that is said, so that anybody can prove it.

Rules:
- What people and the gateway itself did is a happening: policies, models, releases, isolations, keys, gaps, reviews,
  operators' calls. All of them count, whoever is suspected, but only those in the range of time are listed.
- Requests are counted, not listed: those in the range that are of a suspect, all where nobody is suspected.
- Memory is bounded: what is beyond is counted as left out. A principal is a pseudonym, as in the log.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

HAPPENINGS_MAX = 2000
GROUPS_MAX = 4096
PRINCIPALS_MAX = 10_000
NEWEST_MAX = 20
POLICIES_MAX = 10_000
INCIDENTS_MAX = 10_000
ACTS_MAX = 500
PRINCIPAL, TENANT, MODEL = "principal:", "tenant:", "model:"
REQUESTS = frozenset({b"served", b"refused", b"failed", b"outcome-unknown"})
OPERATORS = b'"method":"/stockade.v1.Admin/'
MODEL_CONTROL = b'"method":"/inference.GRPCInferenceService/Repository'
READING = ("Status", "GetPolicy", "ListTenants", "ShowTenant", "ListQuarantine", "RepositoryIndex")
OTHERS = "(others)"
FOR_EVER_NS = 2**63 - 1
_TIME = re.compile(rb'"time_ns":"([0-9]{1,19})"')
_MODEL = re.compile(rb'"model":\{"digest":"[0-9a-f]{64}","engine":"[^"]*","name":"([^"\\]*)","version":"([^"\\]*)"\}')


@dataclass(frozen=True, slots=True)
class Scope:
    """The range of time, Unix nanoseconds, both ends included, and who or what is suspected: any of it will do.

    `principals` are pseudonyms. `models` are names, or names and versions as "NAME/VERSION".
    """

    from_ns: int = 0
    until_ns: int = FOR_EVER_NS
    tenants: frozenset[str] = frozenset()
    principals: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()

    def suspects(self, entry: Mapping[str, Any]) -> bool:
        """Say whether an entry of a request is of somebody or something suspected; of all where nothing is."""
        if not (self.tenants or self.principals or self.models):
            return True
        auth, model = entry.get("auth", {}), entry.get("model", {})
        name = model.get("name", "")
        return (
            auth.get("tenant") in self.tenants
            or auth.get("principal") in self.principals
            or name in self.models
            or f"{name}/{model.get('version', '')}" in self.models
        )


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that was done, with the index of its entry. `what` is one line."""

    index: int
    time_ns: int
    kind: str
    what: str


@dataclass(slots=True)
class Affected:
    """The requests of one tenant for one version of a model. `verdicts` by (technique, screen, verdict)."""

    outcomes: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    evidence_milli: int = 0
    principals: set[str] = field(default_factory=set)
    first_index: int = -1
    last_index: int = -1
    newest: deque[int] = field(default_factory=lambda: deque(maxlen=NEWEST_MAX))

    @property
    def requests(self) -> int:
        """Return how many there were."""
        return self.outcomes.total()

    def count(self, index: int, entry: Mapping[str, Any]) -> None:
        """Take in one entry, or one sum of refusals."""
        if self.first_index < 0:
            self.first_index = index
        self.last_index = index
        self.newest.append(index)
        if "reasons" in entry:
            self.outcomes[entry["kind"]] += entry["count"]
            self.decisions["refuse"] += entry["count"]
            self.reasons.update(entry["reasons"])
        else:
            self.outcomes[entry["kind"]] += 1
            self.decisions[entry["decision"]] += 1
            self.reasons[entry["reason"]] += 1
            self.rows += entry.get("rows", 0)
        for screen in entry.get("screens", ()):
            if screen["verdict"] != "pass":
                self.verdicts[screen["technique"], screen["name"], screen["verdict"]] += 1
        if (account := entry.get("account")) is not None:
            self.steps[account["step"]] += 1
            self.evidence_milli = max(self.evidence_milli, account["evidence_milli"])
        principal = entry.get("auth", {}).get("principal")
        if principal is not None and len(self.principals) < PRINCIPALS_MAX:
            self.principals.add(principal)


@dataclass(slots=True)
class Timeline:
    """What an incident came to. `policies` are all that were ever loaded: index, time and digest, oldest first.

    `models` are those in service when the range began: (name, version) to the index that says so. `answered` are the
    versions of a model that answered before, with the index of the last time.
    """

    scope: Scope
    entries: int = 0
    in_range: int = 0
    first_ns: int = 0
    last_ns: int = 0
    happenings: list[Happening] = field(default_factory=list)
    left_out: int = 0
    affected: dict[tuple[str, str, str], Affected] = field(default_factory=dict)
    policies: list[tuple[int, int, str]] = field(default_factory=list)
    models: dict[tuple[str, str], int] = field(default_factory=dict)
    answered: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, index: int, data: bytes) -> None:
        """Take in the next entry of the log, canonical JSON as it stands there."""
        self.entries += 1
        found = _TIME.search(data)
        time_ns = int(found[1]) if found is not None else 0
        self.first_ns, self.last_ns = self.first_ns or time_ns, max(self.last_ns, time_ns)
        start = data.find(b'"kind":"') + 8
        kind = data[start : data.find(b'"', start)]
        inside = self.scope.from_ns <= time_ns <= self.scope.until_ns
        if kind in REQUESTS:
            if inside:
                self.in_range += 1
                self._request(index, time_ns, data)
            elif kind == b"served" and time_ns < self.scope.from_ns and (model := _MODEL.search(data)) is not None:
                name, version = model[1].decode(), model[2].decode()
                if len(self.answered) < GROUPS_MAX or name in self.answered:
                    self.answered.setdefault(name, {})[version] = index
            return
        if kind == b"heartbeat":
            self.in_range += inside
            return
        entry = orjson.loads(data)
        self._remember(index, time_ns, entry)
        if inside:
            self.in_range += 1
            self._happen(index, time_ns, entry)

    def before(self) -> tuple[int, int, str] | None:
        """Return the policy in force when the range began."""
        return max((one for one in self.policies if one[1] < self.scope.from_ns), default=None)

    def verdicts(self) -> Counter[tuple[str, str, str]]:
        """Return what screens found, by (technique, screen, verdict)."""
        return sum((each.verdicts for each in self.affected.values()), Counter[tuple[str, str, str]]())

    def _request(self, index: int, time_ns: int, data: bytes) -> None:
        entry = orjson.loads(data)
        if OPERATORS in data or MODEL_CONTROL in data:
            name, who = (
                str(entry.get("method", "")).rpartition("/")[2],
                entry.get("auth", {}).get("credential", "nobody"),
            )
            if name not in READING:
                self._list(index, time_ns, "operator", f"{name} by {who}: {entry['reason']}")
        if not self.scope.suspects(entry):
            return
        tenant, model = entry.get("auth", {}).get("tenant", ""), entry.get("model", {})
        key = tenant, model.get("name", ""), model.get("version", "")
        if key not in self.affected and len(self.affected) >= GROUPS_MAX:
            key = OTHERS, "", ""
        self.affected.setdefault(key, Affected()).count(index, entry)

    def _remember(self, index: int, time_ns: int, entry: Mapping[str, Any]) -> None:
        """Keep what was in force, also from before the range."""
        if entry["kind"] == "policy" and entry["outcome"] == "loaded":
            self.policies.append((index, time_ns, entry["digest"]))
            del self.policies[:-POLICIES_MAX]
        if entry["kind"] == "model" and time_ns < self.scope.from_ns:
            key = entry["name"], entry["version"]
            if entry["action"] == "loaded":
                self.models[key] = index
            elif entry["action"] == "unloaded":
                self.models.pop(key, None)

    def _happen(self, index: int, time_ns: int, entry: Mapping[str, Any]) -> None:
        self._list(index, time_ns, entry["kind"], line_of(entry))

    def _list(self, index: int, time_ns: int, kind: str, what: str) -> None:
        if len(self.happenings) < HAPPENINGS_MAX:
            self.happenings.append(Happening(index, time_ns, kind, what))
        else:
            self.left_out += 1


def line_of(entry: Mapping[str, Any]) -> str:
    """Return what an entry that is no request says, in one line."""
    kind, action = entry["kind"], str(entry.get("action") or entry.get("outcome") or "")
    parts: list[str]
    match kind:
        case "config" | "policy":
            parts = [action, entry["digest"][:16]]
        case "model" | "release" | "evaluation":
            parts = [action, f"{entry['name']}/{entry['version']}", *_by(entry.get("approvers", ())), *_right(entry)]
        case "isolation":
            whole = "tenant" if "principal" not in entry else f"principal {entry['principal'][:16]} of"
            parts = [action, whole, entry["tenant"], *_by([entry["administrator"]] if "administrator" in entry else ())]
        case "incident":
            detail = (f"{key}={value}" for key, value in entry.get("detail", {}).items())
            parts = [action, entry["incident"], *_by([entry["administrator"]]), *entry.get("suspects", ()), *detail]
        case "quarantine":
            parts = [action, f"entry {entry['entry']}", *_by([entry["administrator"]])]
        case "recover":
            parts = [entry["cause"], f"at {entry['size']} entries, {entry['cut_bytes']} bytes cut"]
        case "gap":
            parts = [entry["state"], f"{entry['dropped']} records lost"]
        case "erasure":
            parts = [f"{len(entry['keys'])} data keys", *_by(entry["administrators"])]
        case "replay-result":
            parts = [f"{entry['level']}: {entry['differing']} of {entry['checked']} differ from {entry['first']} on"]
        case _:
            named = ("purpose", "key", "matter", "administrator", "origin", "next_origin", "label", "request")
            parts = [action, *(f"{name} {entry[name]}" for name in named if name in entry)]
    reason = entry.get("override") or entry.get("reason") or entry.get("detail", {}).get("reason")
    return " ".join(part for part in parts if part) + (f": {reason}" if reason else "")


def _right(entry: Mapping[str, Any]) -> list[str]:
    return [f"right in {entry['right']} of {entry['labels']}, {entry['source']}"] if "right" in entry else []


def _by(who: Any) -> list[str]:
    return [f"by {', '.join(who)}"] if who else []


@dataclass(slots=True)
class Opened:
    """An incident as it was opened, and the indexes of what names it since."""

    name: str
    index: int
    time_ns: int
    administrator: str
    reason: str
    from_ns: int
    until_ns: int
    suspects: tuple[str, ...]
    acts: list[int] = field(default_factory=list)
    closed_index: int | None = None

    def scope(self) -> Scope:
        """Return what its timeline is about."""
        return Scope(
            self.from_ns,
            self.until_ns,
            tenants=frozenset(self._named(TENANT)),
            principals=frozenset(each.rpartition("/")[2] for each in self._named(PRINCIPAL)),
            models=frozenset(self._named(MODEL)),
        )

    def _named(self, prefix: str) -> list[str]:
        return [each.removeprefix(prefix) for each in self.suspects if each.startswith(prefix)]


@dataclass(slots=True)
class Register:
    """The incidents of a log by name. One that is closed and opened again under the same name goes on."""

    incidents: dict[str, Opened] = field(default_factory=dict)

    def add(self, index: int, data: bytes) -> None:
        """Take in the next entry of the log, canonical JSON as it stands there."""
        if b'"incident":"' not in data:
            return
        entry: Mapping[str, Any] = orjson.loads(data)
        name = entry.get("incident") or entry.get("detail", {}).get("incident", "")
        known = self.incidents.get(name)
        if entry["kind"] != "incident":
            if known is not None and len(known.acts) < ACTS_MAX:
                known.acts.append(index)
            return
        if entry["action"] == "opened" and known is None:
            if len(self.incidents) < INCIDENTS_MAX:
                self.incidents[name] = opened(index, entry)
        elif known is not None:
            known.closed_index = index if entry["action"] == "closed" else None
            if len(known.acts) < ACTS_MAX:
                known.acts.append(index)


def opened(index: int, entry: Mapping[str, Any]) -> Opened:
    """Return an incident from the entry that opens it."""
    return Opened(
        name=entry["incident"],
        index=index,
        time_ns=int(entry["time_ns"]),
        administrator=entry["administrator"],
        reason=entry.get("reason", ""),
        from_ns=int(entry.get("from_ns", 0)),
        until_ns=int(entry.get("until_ns", FOR_EVER_NS)),
        suspects=tuple(entry.get("suspects", ())),
    )
