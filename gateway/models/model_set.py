"""Which model versions a host serves: the bundles it knows, by digest and place, and what was taken out of service.

The supervisor writes this down, durably, before anybody acts by it. Workers open exactly the bundles it lists, so all
of them serve the same, also one that is started later. It stands beside the log, as the memory of the policy's revision
does: what an operator took out of service stays out, whatever is restarted. It is not signed, and needs not be: it can
only choose among bundles that a trusted key signed, for models that the signed policy names. Where the policy asks for
proof (`promotion`), a version without it is not listed at all; the supervisor sees to that at every start.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from gateway.config.document import PolicyRejected, read_bounded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODELS = "models.json"
BYTES_MAX = 4 * 1024 * 1024

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Listed:
    """A bundle that the host knows. `directory` is below `bundles.directory`."""

    name: str
    version: str
    digest: str
    directory: str

    @property
    def key(self) -> Key:
        """Return what the policy and clients call it by."""
        return self.name, self.version


@dataclass(frozen=True, slots=True)
class ModelSet:
    """The bundles that a host knows, and the versions that are out of service, also of bundles that are not there."""

    listed: tuple[Listed, ...] = ()
    unloaded: frozenset[Key] = frozenset()

    @property
    def digest(self) -> str:
        """Return what two processes compare to see whether they serve the same."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def changes(self, before: ModelSet) -> Iterator[tuple[str, Listed]]:
        """Yield what came into service, as "loaded", and what went out of it, as "unloaded"."""
        served = {one for one in before.listed if one.key not in before.unloaded}
        serves = {one for one in self.listed if one.key not in self.unloaded}
        for one in self.listed:
            if one in serves - served:
                yield "loaded", one
            elif one in served - serves:
                yield "unloaded", one
        for one in before.listed:
            if one in served and one.key not in {other.key for other in self.listed}:
                yield "unloaded", one

    def to_json(self) -> bytes:
        """Return the bytes of the file."""
        fields = {"models": [asdict(one) for one in self.listed], "unloaded": sorted(self.unloaded)}
        return json.dumps(fields, sort_keys=True).encode() + b"\n"


def read_models(file: Path) -> ModelSet:
    """Return what is written down; nothing where there is no file.

    Raises:
        PolicyRejected: the file is not one of ours. Nobody guesses what was taken out of service.
    """
    if not file.exists():
        return ModelSet()
    try:
        found = json.loads(read_bounded(file, BYTES_MAX, PolicyRejected))
        listed = tuple(Listed(**{key: str(value) for key, value in fields.items()}) for fields in found["models"])
        return ModelSet(listed, frozenset((str(name), str(version)) for name, version in found["unloaded"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        advice = "restore it, or remove it: versions that were taken out of service are then served again"
        raise PolicyRejected([f"{file}: does not say which models are in service; {advice}"]) from None
