"""What was kept beside the log: payloads, opened with the keys that are here, and engines for the bundles that are."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from msgspec import UnsetType

from gateway.tools.replay.rulebooks import NotReplayed
from ops.audit.errors import KeyMissing, KeyStoreError
from ops.audit.log.tiles import TILE_WIDTH, split_pack
from ops.audit.reader.read import pack_paths
from serving.engines.experts import open_engine
from serving.errors import ServingError

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.codec import CodecLimits
    from gateway.tools.replay.history import Recorded
    from ops.audit.payloads.keys import KeyStore
    from serving.bundles.bundle import Bundle
    from serving.engines.engine import Engine

PACKS_CACHED = 8


@dataclass(slots=True)
class Payloads:
    """The payloads of a log directory, and engines for the bundles that are here."""

    directory: Path
    keys: KeyStore
    limits: CodecLimits
    _engines: dict[str, Engine] = field(default_factory=dict)
    _packs: OrderedDict[int, dict[str, bytes]] = field(default_factory=OrderedDict)

    def read(self, one: Recorded, name: str) -> bytes:
        """Return what was sent ("request") or answered ("response"). Raises NotReplayed."""
        payload = one.entry.payload
        if isinstance(payload, UnsetType):
            raise NotReplayed("no payload was kept")
        sealed = payload.request if name == "request" else payload.response
        if isinstance(sealed, UnsetType):
            raise NotReplayed("no payload was kept")
        blob = self._pack(one.index // TILE_WIDTH).get(sealed.ciphertext_sha256)
        if blob is None:
            raise NotReplayed("the payload is not in this copy of the log")
        try:
            return self.keys.open(payload.key, bytes.fromhex(one.entry.id), name, blob, sealed.commitment)
        except KeyMissing as problem:
            raise NotReplayed("the payload's key was erased, or is not here") from problem
        except KeyStoreError as problem:
            raise NotReplayed("the payload does not open with the keys that are here") from problem

    def engine(self, bundle: Bundle) -> Engine:
        """Return what runs a bundle's model here. Raises NotReplayed."""
        if bundle.digest not in self._engines:
            try:
                self._engines[bundle.digest] = open_engine(bundle)
            except ServingError as problem:
                raise NotReplayed("the model runs elsewhere") from problem
        return self._engines[bundle.digest]

    def _pack(self, bundle: int) -> dict[str, bytes]:
        if bundle not in self._packs:
            blobs = (blob for path in pack_paths(self.directory, bundle) for blob in split_pack(path.read_bytes()))
            self._packs[bundle] = {sha256(blob).hexdigest(): blob for blob in blobs}
            if len(self._packs) > PACKS_CACHED:
                self._packs.popitem(last=False)
        return self._packs[bundle]
