"""Keeps payloads, encrypted, where the policy asks for it: for replay and for the analyst after an incident.

`none` keeps nothing; `flagged` keeps what was not simply answered: flagged, hardened, refused or failed, for whatever
reason; `sampled` a share of the rest as well, chosen by the request's id so that nobody can choose; `all` everything.
Of the tenant's setting and the model's, the narrower holds. What is kept travels with the record and is durable with
it; the record names it by the hash of its ciphertext. Only so much of it may be in flight (`Room`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gateway import errors
from gateway.request.item import Answer

if TYPE_CHECKING:
    from gateway.request.item import Item
    from gateway.request.record import Record
    from ops.audit.payloads.keys import KeyStore, Sealed

BACKLOG_SHARE = 2  # half of the backlog at most is for payloads, so that plain records always find room
MODES = ("none", "flagged", "sampled", "all")  # each keeps what the one before it keeps, and more


def narrower(first: str, second: str) -> str:
    """Return the one of two modes that keeps less."""
    return min(first, second, key=MODES.index)


class Room:
    """How many bytes of requests that may be kept are in flight, between their decoding and their record.

    Without a bound a few large ones fill the backlog of the audit client, and then everybody's answers are refused when
    the model has done its work. One alone is always let in.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.bytes = 0

    def enter(self, record: Record, nbytes: int) -> None:
        """Take room for a request, or raise Overloaded."""
        if self.bytes and self.bytes + nbytes > self._bytes_max:
            raise errors.Overloaded
        self.bytes += nbytes
        record.room_bytes = nbytes

    def leave(self, record: Record) -> None:
        """Give it back; once, whatever became of the request."""
        self.bytes -= record.room_bytes
        record.room_bytes = 0


class Vault:
    """Seals payloads under the keys of their tenants."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    def keep(self, item: Item) -> list[bytes]:
        """Return the ciphertexts to store beside the item's record, which is told of them. From a worker thread."""
        if not wanted(item):
            return []
        record = item.record
        caller = record.caller()
        month = datetime.fromtimestamp(record.time_ns / 1e9, UTC).strftime("%Y-%m")

        def seal(field: str, plaintext: bytes) -> Sealed:
            return self._keys.seal(caller.tenant, caller.name, month, record.id_bytes, field, plaintext)

        request = seal("request", item.body)
        kept = [("request", request, len(item.body))]
        if isinstance(item.outcome, Answer):
            kept.append(("response", seal("response", item.outcome.body), len(item.outcome.body)))
        facts = ",".join([f'"{field}":{fragment(sealed, size)}' for field, sealed, size in kept])
        record.payload_json = f'{{"key":"{request.key_ref}",{facts}}}'
        return [sealed.ciphertext for _, sealed, _ in kept]


def wanted(item: Item) -> bool:
    """Say whether this payload is to be kept."""
    if item.capture in ("none", "all"):
        return item.capture == "all"
    if item.record.decision != "allow":
        return True
    return (
        item.capture == "sampled" and int.from_bytes(item.record.id_bytes[:4], "big") < item.rules.capture_rate * 2**32
    )


def fragment(sealed: Sealed, size: int) -> str:
    """Return what the record says of one payload."""
    return f'{{"bytes":{size},"ciphertext_sha256":"{sealed.sha256}","commitment":"{sealed.commitment}"}}'
