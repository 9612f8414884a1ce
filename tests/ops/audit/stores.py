"""Object stores for tests: a real one with a hand in between that can spoil what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ops.audit.copies.object_store import Inspected, Lock, Place, open_store


@dataclass
class Spoiled:
    """A store whose calls go through `before(call, key)`, which may raise, or say `lost`: then nothing is done."""

    store: Inspected
    before: Callable[[str, str], str | None] = lambda _call, _key: None
    after: Callable[[str, str], None] = lambda _call, _key: None
    calls: list[tuple[str, str]] = field(default_factory=list)

    def _through(self, call: str, key: str, do: Callable[[], object]) -> object:
        self.calls.append((call, key))
        if self.before(call, key) == "lost":
            return None
        found = do()
        self.after(call, key)
        return found

    def get(self, key: str) -> bytes | None:
        return self._through("get", key, lambda: self.store.get(key))

    def put_new(self, key: str, data: bytes) -> None:
        self._through("put_new", key, lambda: self.store.put_new(key, data))

    def replace(self, key: str, data: bytes) -> None:
        self._through("replace", key, lambda: self.store.replace(key, data))

    def keys(self, prefix: str) -> Iterator[str]:
        return self.store.keys(prefix)

    def lock_of(self, key: str) -> Lock | None:
        return self.store.lock_of(key)


def directory_store(path: Path) -> Inspected:
    return open_store(Place(path.as_uri()))


def held_in(store: Inspected) -> dict[str, bytes]:
    """All that a log's replica has, by key."""
    found = {key: store.get(key) for prefix in ("tile/", "blobs/", "checkpoints/") for key in store.keys(prefix)}
    return {key: data for key, data in found.items() if data is not None}
