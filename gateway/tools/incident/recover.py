"""What takes a gateway back to before an incident. It reads the story and the files of the host, and writes nothing.

Rules:
- A suspect is kept out, unless it is already.
- A suspected model goes back to the version that answered last before the incident began, where another one is served.
- A policy goes back only to one that the log says was in force before the incident began: its digest stands there. Its
  content gets the next revision; whoever holds the policy's key signs it, and nobody else can put it in force.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from gateway.config.document import PolicyRejected
from gateway.config.parse import parse
from gateway.policy.edit import mapping, replaced, value_of
from gateway.policy.load import parse_policy
from gateway.policy.policy import Policy
from ops.incidents.timeline import MODEL, PRINCIPAL, TENANT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from gateway.tools.incident.read import Story
    from gateway.tools.registry.registry import Registry

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: `act` is isolate, rollback or policy; `about` whom or what; `why` names the entries."""

    act: str
    about: str
    why: str


def suspect_steps(story: Story, kept_out: Collection[tuple[str, str]]) -> Iterator[Step]:
    """Yield whom to keep out. `kept_out` are pairs of a tenant and a pseudonym, which is empty for a whole tenant."""
    assert story.incident is not None, "recovering is about an incident"
    for suspect in story.incident.suspects:
        if suspect.startswith(TENANT):
            tenant, pseudonym = suspect.removeprefix(TENANT), ""
        elif suspect.startswith(PRINCIPAL):
            tenant, _, pseudonym = suspect.removeprefix(PRINCIPAL).rpartition("/")
        else:
            continue
        if (tenant, "") not in kept_out and (tenant, pseudonym) not in kept_out:
            about = f"{tenant}/{pseudonym}" if pseudonym else tenant
            yield Step("isolate", about, f"a suspect of entry {story.incident.index}")


def model_steps(story: Story, registry: Registry, asked: Collection[str]) -> Iterator[Step]:
    """Yield which models to roll back, and to which version: as asked for, else as the log says."""
    assert story.incident is not None, "recovering is about an incident"
    for wanted in asked:
        yield Step("rollback", wanted, "as asked")
    done = {wanted.partition("/")[0] for wanted in asked}
    for suspect in story.incident.suspects:
        name, _, version = suspect.removeprefix(MODEL).partition("/")
        if not suspect.startswith(MODEL) or name in done or name not in registry.policy.models:
            continue
        served = registry.policy.models[name].serve
        if version not in ("", served):
            continue
        done.add(name)
        before = story.timeline.answered.get(name, {})
        candidates = {number: index for number, index in before.items() if number != version}
        number = max(candidates, key=lambda number: candidates[number], default=served)
        if number != served:
            why = f"answered last before it began, entry {candidates[number]}; {served} is served now"
            yield Step("rollback", f"{name}/{number}", why)


def policy_of_before(story: Story, registry: Registry, former: Mapping[str, Path]) -> Step | None:
    """Return which policy was in force when the incident began, where it is not the one of now.

    `former` are the files of earlier policies that the host has kept, by digest.
    """
    before = story.timeline.before()
    if before is None or before[2] == registry.policy.digest:
        return None
    file = former.get(before[2])
    where = f"--policy {file}" if file is not None else "its file is not kept here: --policy FILE"
    return Step("policy", before[2], f"in force when it began, entry {before[0]}; to go back to it, {where}")


def restored(story: Story, registry: Registry, file: Path) -> tuple[str, Policy, Step]:
    """Return the text of an earlier policy under the next revision, what it says, and the step that this is.

    Raises:
        PolicyRejected: it was not in force before the incident began, by the log, or is written in a strange way.
        OSError: it cannot be read.
    """
    text = file.read_text(encoding="utf-8")
    digest = parse_policy(text.encode(), file).digest
    known = {found: (index, at) for index, at, found in story.timeline.policies if at < story.timeline.scope.from_ns}
    if digest not in known:
        raise PolicyRejected([f"{file}: the log says of no policy with digest {digest} that it was in force before"])
    revision = registry.policy.revision + 1
    root = mapping(yaml.compose(text, Loader=_LOADER))
    span = replaced(value_of(root, "revision"), str(revision))
    new = text[: span.start] + span.text + text[span.end :]
    wanted = parse(text.encode(), file, PolicyRejected).value | {"revision": revision}
    if parse(new.encode(), file, PolicyRejected).value != wanted:
        raise PolicyRejected([f"{file}: is written in a way that cannot be edited; set `revision: {revision}` by hand"])
    step = Step("policy", digest, f"in force before, entry {known[digest][0]}; its content as revision {revision}")
    return new, parse_policy(new.encode(), file), step
