"""Answers that are given again: to the same tenant, for the same input, by the same model under the same policy.

Rules:
- The key is SHA-256 over everything that an answer follows from: bundle, policy, tenant, what is asked for in which
  form, and the decoded input; each part stands behind its length. So nothing of one tenant, model, version or policy is
  ever found by another, and two encodings of the same numbers are the same input.
- A caller is authenticated, admitted and charged before anything is looked up: an answer from here costs as any other.
- Only what was allowed is kept, once its record is durable; what was flagged, hardened for a reason, refused or failed
  is judged anew each time. Each answer from here has a record of its own, which names the request it was made for.
- A model whose accounts are watched or have a budget, with a screen that is not a function of the row alone, or with
  versions that are compared, is not cached: each of its requests has to be seen.
- Whatever is no longer in force is forgotten at once: a new policy, or a version that goes in or out of service, clears
  all of it.
- Bounded by entries, bytes and age. Where it is full, the tenant that holds most gives way with what it used least
  recently; so nobody's repetitions can push everybody else's out.

It is used on the event loop alone. It reads no clock.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gateway import codec
from gateway.request.item import Answer

if TYPE_CHECKING:
    from gateway.codec import InferRequest
    from gateway.config.config import ResponseCache
    from gateway.models.rules import Active, ModelRules
    from gateway.models.served import Served
    from gateway.request.item import Item

DOMAIN = b"stockade response cache 1"
ROW_SCREENS = frozenset({"evidence", "trigger"})
"""Screens whose verdict on a row follows from the row alone. One that remembers callers must not stand here."""
OVERHEAD_BYTES = 512  # of an entry, beside what it holds: key, objects, tables
ALLOWED = "allow"


class Kept(NamedTuple):
    """An answer, cut where the caller's id stands in it, and what the screens said of its input."""

    before: bytes
    after: bytes
    screens_json: str | None
    request_id: str
    """Of the request that it was made for."""
    tenant: str
    output_json: str | None = None
    """What was kept back of it."""

    @property
    def nbytes(self) -> int:
        """What it takes of the bound."""
        said = len(self.screens_json or "") + len(self.output_json or "")
        return OVERHEAD_BYTES + len(self.before) + len(self.after) + said


class Observed(NamedTuple):
    """What has happened since the last time, by (model, "hit" or "miss"), and what is held now."""

    lookups: Counter[tuple[str, str]]
    entries: int
    bytes: int


@dataclass(slots=True)
class _Share:
    """What one tenant holds, the least recently used first: key -> (when it is too old, answer)."""

    entries: OrderedDict[bytes, tuple[int, Kept]]
    nbytes: int = 0


class AnswerCache:
    """Bounded memory of answers, a share for each tenant."""

    def __init__(self, *, entries_max: int, bytes_max: int, ttl_ns: int) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._ttl_ns = ttl_ns
        self._shares: dict[str, _Share] = {}
        self._lookups: Counter[tuple[str, str]] = Counter()
        self.entries = 0
        self.bytes = 0

    def find(self, key: bytes, tenant: str, model: str, now_ns: int) -> Kept | None:
        """Return what is kept under a key, and count whether there was anything."""
        share = self._shares.get(tenant)
        found = None if share is None else share.entries.get(key)
        if share is None or found is None or found[0] <= now_ns:
            if share is not None and found is not None:
                self._drop(tenant, share, key)
            self._lookups[model, "miss"] += 1
            return None
        share.entries.move_to_end(key)
        self._lookups[model, "hit"] += 1
        return found[1]

    def keep(self, key: bytes, kept: Kept, now_ns: int) -> None:
        """Keep an answer; what takes more than an eighth of the bytes is not kept."""
        if kept.nbytes > self._bytes_max // 8:
            return
        share = self._shares.setdefault(kept.tenant, _Share(OrderedDict()))
        if key in share.entries:
            self._forget(share, key)
        share.entries[key] = now_ns + self._ttl_ns, kept
        share.nbytes += kept.nbytes
        self.entries += 1
        self.bytes += kept.nbytes
        while self.entries > self._entries_max or self.bytes > self._bytes_max:
            self._evict(kept.tenant)

    def learn(self, item: Item, policy_digest: str, in_service: Served | None, now_ns: int) -> None:
        """Keep the answer of an item whose record is durable, if it may be given again.

        `policy_digest` is that of the policy in force, `in_service` what stands for the item's version now.
        """
        outcome, record, served = item.outcome, item.record, item.rules.served
        if item.cache_key is None or not isinstance(outcome, Answer) or outcome.decision != ALLOWED:
            return
        bundle = served.bundle
        if record.policy_digest != policy_digest or in_service is not served:
            return  # what it was made under is not in force any more
        before, after = codec.without_id(outcome.body, bundle.name, bundle.version, item.request.id)
        kept = Kept(before, after, record.screens_json, record.id, record.caller().tenant, record.output_json)
        self.keep(item.cache_key, kept, now_ns)

    def clear(self) -> None:
        """Forget everything."""
        self._shares.clear()
        self.entries = self.bytes = 0

    def observed(self) -> Observed:
        """Return what has happened, and begin to count anew."""
        lookups, self._lookups = self._lookups, Counter()
        return Observed(lookups, self.entries, self.bytes)

    def _evict(self, newcomer: str) -> None:
        """Make room: the newcomer's own, where it holds its part or more; else the largest share's. Never its last."""
        tenant, share = newcomer, self._shares[newcomer]
        if len(share.entries) == 1 or share.nbytes * len(self._shares) < self.bytes:
            others = (each for each in self._shares.items() if each[0] != newcomer)
            tenant, share = max(others, key=lambda each: each[1].nbytes)
        self._drop(tenant, share, next(iter(share.entries)))

    def _drop(self, tenant: str, share: _Share, key: bytes) -> None:
        self._forget(share, key)
        if not share.entries:
            del self._shares[tenant]

    def _forget(self, share: _Share, key: bytes) -> None:
        _, kept = share.entries.pop(key)
        share.nbytes -= kept.nbytes
        self.entries -= 1
        self.bytes -= kept.nbytes


def open_cache(settings: ResponseCache | None) -> AnswerCache | None:
    """Return the cache of one worker, if there is to be one."""
    if settings is None:
        return None
    return AnswerCache(
        entries_max=settings.entries_max, bytes_max=settings.bytes_max, ttl_ns=settings.ttl_ms * 1_000_000
    )


def cacheable(rules: ModelRules, active: Active) -> bool:
    """Say whether answers under these rules may be given again."""
    if rules.feedback is not None:  # a label is for what the model itself saw and said
        return False
    released = rules.mirror is not None or rules.served.bundle.name in active.splits
    return not released and rules.watch is None and rules.budget is None and rules.screens.keys() <= ROW_SCREENS


def key_of(request: InferRequest, rules: ModelRules, tenant: str, policy_digest: str) -> bytes:
    """Return the key of a decoded request: SHA-256 of all that its answer follows from."""
    bundle = rules.served.bundle
    asked = request.requested_outputs
    names = [spec.name for spec in rules.outputs] if asked is None else asked
    outputs = [framed(name.encode(), str(request.classification.get(name, 0)).encode()) for name in names]
    whose = (bundle.digest, bundle.name, bundle.version, policy_digest, tenant, "raw" if request.raw else "contents")
    digest = sha256(framed(DOMAIN, *[part.encode() for part in whose], framed(*outputs)))
    for name, array in sorted(request.inputs.items()):
        data = framed(*array.ravel().tolist()) if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
        digest.update(framed(name.encode(), array.dtype.str.encode(), repr(array.shape).encode(), data))
    return digest.digest()


def framed(*parts: bytes) -> bytes:
    """Return parts behind their number and their lengths, so that no others give the same bytes."""
    pieces = [len(parts).to_bytes(8, "big")]
    for part in parts:
        pieces += (len(part).to_bytes(8, "big"), part)
    return b"".join(pieces)
