"""What the file of labels holds, row by row, and the states of an item."""

from __future__ import annotations

from typing import NamedTuple

STATES = ("accepted", "quarantined", "released", "rejected", "taken", "learned", "dropped")
ALLOWED = ("accepted", "released")
FINAL = ("rejected", "learned", "dropped")
CONFIDENCE_BINS = 15
HELD = (
    "id, state, reason, request, row, model, version, tenant, principal, name, label, answered, latent, p_micro, "
    "outcome_ns, received_ns, key, batch"
)


class AnswerKept(NamedTuple):
    """One row that was answered. `latent` is float16, little-endian; `label` the place of the class.

    `confidence_micro` is the probability of that class in millionths; -1 where it was not noted.
    """

    request: bytes
    row: int
    tenant: str
    model: str
    version: str
    label: int
    decision: str
    latent: bytes
    time_ns: int
    confidence_micro: int = -1


class Draft(NamedTuple):
    """An item before it is recorded. `label` is the place of a class; `name` and `answered` are names of classes.

    `confidence_micro` is the answer's.
    """

    request: bytes
    row: int
    tenant: str
    principal: str
    model: str
    version: str
    label: int
    name: str
    answered: str
    latent: bytes
    p_micro: int
    outcome_ns: int
    received_ns: int
    key: str
    trusted: bool
    state: str
    reason: str
    confidence_micro: int = -1


class Outcomes(NamedTuple):
    """Labels of a version whose answers were about as confident: how many, how many right, and the confidences' sum."""

    version: str
    trusted: bool
    labels: int
    right: int
    confidence_micro: int


class Held(NamedTuple):
    """An item that is recorded."""

    id: int
    state: str
    reason: str
    request: bytes
    row: int
    model: str
    version: str
    tenant: str
    principal: str
    name: str
    label: int
    answered: str
    latent: bytes
    p_micro: int
    outcome_ns: int
    received_ns: int
    key: str
    batch: int
