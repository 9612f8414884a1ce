"""A log that remembers what it was told."""

from typing import Any


class Words:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines]

    def facts(self, event: str) -> list[dict[str, Any]]:
        return [facts for said, facts in self.lines if said == event]
