"""The policies that were in force, by their digests, compiled as the gateway compiled them.

A policy is looked for where the configuration has it and among those that the gateway has kept beside it. No signature
is asked for: the digest in the entry, which is proved, says which policy it was.

Nothing goes out: issuers are not asked for their keys, since tokens are not in the log. The key database is read in a
copy, because whoever asks it for a tenant's key makes one where there is none.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from msgspec import UnsetType

from gateway.auth.principal import PUBLIC, Account
from gateway.config.document import FileRejected, PolicyRejected, read_bounded
from gateway.config.place import place_of
from gateway.models.compile import compile_policy
from gateway.policy.file import ACCEPTED, former_policies
from gateway.policy.load import POLICY_BYTES_MAX, parse_policy
from ops.audit.errors import KeyMissing, KeyStoreError
from ops.audit.log.entry import pseudonym
from ops.audit.log.tiles import TILE_WIDTH, split_pack
from ops.audit.payloads.keys import KeyStore
from ops.audit.reader.read import pack_paths
from serving.engines.experts import open_engine
from serving.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.codec import CodecLimits
    from gateway.config.config import Config
    from gateway.models.rules import Active
    from gateway.models.served import Served
    from gateway.policy.policy import Policy
    from gateway.tools.replay.history import Recorded
    from serving.bundles.bundle import Bundle
    from serving.engines.engine import Engine

Key = tuple[str, str]


class NotReplayed(Exception):
    """Something cannot be done again; the message is the reason, from a fixed set."""


class UnknownVersion(Exception):
    """A version that is asked for is not here. The message is for the person at the terminal."""


@dataclass(frozen=True, slots=True, eq=False)
class Rulebook:
    """One policy. `names` is who stands behind (tenant, pseudonym)."""

    policy: Policy
    active: Active
    names: Mapping[tuple[str, str], str]

    def account(self, name: str) -> Account:
        """Return a principal as the policy describes it."""
        principal = self.policy.principals[name]
        return Account(
            name=name,
            tenant=principal.tenant,
            priority_class=self.policy.class_of(name),
            lane=self.policy.lane_of(name),
            roles=frozenset(principal.roles),
        )


class Rulebooks:
    """What is known of policies here. `served` are the models, without engines; `keys` makes the pseudonyms."""

    def __init__(self, config: Config, served: Mapping[Key, Served], keys: KeyStore, now_ns: int) -> None:
        self._served, self._keys, self._now_ns = served, keys, now_ns
        self._pepper = config.policy.pepper.read_bytes()
        self._policies = {policy.digest: policy for policy in policies_of(config)}
        self._books: dict[str, Rulebook | str] = {}

    def of(self, digest: str) -> Rulebook | str:
        """Return the policy with this digest, or why there is none."""
        if digest not in self._books:
            policy = self._policies.get(digest)
            self._books[digest] = "the policy is not at hand" if policy is None else self._compiled(policy)
        return self._books[digest]

    def need(self, digest: str) -> Rulebook:
        """Return the policy with this digest. Raises NotReplayed."""
        book = self.of(digest)
        if isinstance(book, str):
            raise NotReplayed(book)
        return book

    def bind(self, policy: Policy) -> Rulebook:
        """Return a policy as it would be in force here. Raises PolicyRejected."""
        active = compile_policy(policy, self._served, self._pepper, (), self._now_ns)
        tenants = [(name, principal.tenant) for name, principal in policy.principals.items()]
        names = {
            (tenant, pseudonym(self._keys.tenant_key(tenant), name)): name
            for name, tenant in (*tenants, (PUBLIC.name, PUBLIC.tenant))
        }
        return Rulebook(policy, active, names)

    def require(self, versions: Mapping[str, str]) -> None:
        """Raise UnknownVersion unless there is a bundle of each of these versions, by model."""
        for name, version in versions.items():
            if (name, version) not in self._served:
                there = ", ".join(other for found, other in self._served if found == name) or "none"
                raise UnknownVersion(f"there is no bundle of {name} version {version!r} (there: {there})")

    def _compiled(self, policy: Policy) -> Rulebook | str:
        try:
            return self.bind(policy)
        except PolicyRejected:
            return "the policy cannot be put in force with the bundles that are here"


def policies_of(config: Config) -> Iterator[Policy]:
    """Yield the policies that are kept here. What cannot be read is passed over: its entries find no policy."""
    directory = place_of(config).policies
    files = [config.policy.file, directory / ACCEPTED]
    with suppress(OSError):
        files += former_policies(directory).values()
    for file in files:
        with suppress(FileRejected, OSError):
            yield read_policy(file)


def read_policy(file: Path) -> Policy:
    """Return a policy whoever signed it, or nobody. Raises PolicyRejected, OSError."""
    return parse_policy(read_bounded(file, POLICY_BYTES_MAX, PolicyRejected), file)


@contextmanager
def copied_keys(config: Config) -> Iterator[KeyStore]:
    """The key database, in a copy that is gone afterwards. The copy's keys are wrapped, as in the original."""
    with TemporaryDirectory(prefix="stockade-replay-") as directory:
        copy = Path(directory) / "keys.db"
        if config.audit.key_database.exists():
            source = f"{config.audit.key_database.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(source, uri=True)) as held, closing(sqlite3.connect(copy)) as target:
                held.backup(target)
        keys = KeyStore(copy, config.audit.master_key.read_bytes(), origin=config.audit.origin)
        try:
            yield keys
        finally:
            keys.close()


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
