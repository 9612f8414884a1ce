"""Where an issuer's keys come from: a file or an https URL, read again and again by a thread of its own.

Rules:
- `get` and `missed` never block: they look at the keys as last read. Only `refresh` does IO, and only the thread calls
  it once the source is started.
- The document is read every `refresh_ms`. An unknown `kid` asks for an earlier reading, and so does a failed one, but
  not before `cooldown_ms` have passed since the last: a storm of unknown ids costs one reading a cooldown.
- A `kid` that was missed is remembered for `negative_ms`, so one that does not exist cannot cause a reading every
  cooldown. The memory for them is bounded and forgets the oldest.
- When a reading fails, or brings a key set that breaks a rule, the keys of the last good one stay.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from gateway.auth.jwks import VerifyKey, parse_key_set

MISSED_MAX = 1024
_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000


class KeySource:
    """The keys of one issuer. `load` returns the JWKS document and may block. `clock_ns` is monotonic."""

    def __init__(
        self,
        load: Callable[[], bytes],
        *,
        refresh_ms: int = 300_000,
        cooldown_ms: int = 30_000,
        negative_ms: int = 120_000,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._load = load
        self._refresh_ns = refresh_ms * _NS_PER_MS
        self._cooldown_ns = cooldown_ms * _NS_PER_MS
        self._negative_ns = negative_ms * _NS_PER_MS
        self._clock_ns = clock_ns
        self._keys: Mapping[str, VerifyKey] = {}
        self._body = b""
        self._due_ns: int | None = None  # the next reading; None: none has been tried
        self._tried_ns = 0
        self._read_ns: int | None = None
        self._missed_until_ns: OrderedDict[str, int] = OrderedDict()
        self._error: Exception | None = None
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="issuer-keys", daemon=True)

    @property
    def error(self) -> Exception | None:
        """Why the last reading failed, None when it succeeded."""
        return self._error

    @property
    def read_ns(self) -> int | None:
        """When the last good reading began, on the source's clock; None when there was none."""
        return self._read_ns

    def get(self, kid: str) -> VerifyKey | None:
        """Return the key under this id, as last read."""
        return self._keys.get(kid)

    def missed(self, kid: str) -> None:
        """Say that a token named a key that `get` does not know."""
        with self._wake:
            now_ns = self._clock_ns()
            if self._missed_until_ns.get(kid, now_ns) > now_ns:
                return
            self._missed_until_ns[kid] = now_ns + self._negative_ns
            self._missed_until_ns.move_to_end(kid)
            if len(self._missed_until_ns) > MISSED_MAX:
                self._missed_until_ns.popitem(last=False)
            self._hasten()

    def wait_s(self) -> float:
        """Return the seconds until the next reading, 0 when it is due."""
        if self._due_ns is None:
            return 0.0
        return max(0, self._due_ns - self._clock_ns()) / _NS_PER_S

    def refresh(self) -> bool:
        """Read the document now and say whether that went well. Blocks: for the start, and for the thread."""
        with self._wake:
            self._tried_ns = self._clock_ns()
            self._due_ns = self._tried_ns + self._refresh_ns
        try:
            body = self._load()
            if body != self._body:
                self._keys = parse_key_set(body, self._keys)
                self._body = body
        except Exception as exc:  # noqa: BLE001  whatever a server makes the client raise, the thread goes on and says so
            self._error = exc
            with self._wake:
                self._hasten()
            return False
        self._error = None
        self._read_ns = self._tried_ns
        return True

    def start(self) -> None:
        """Start the thread. Once."""
        self._thread.start()

    def close(self) -> None:
        """Let the thread end. A reading that is under way is not waited for."""
        with self._wake:
            self._closed = True
            self._wake.notify()

    def _hasten(self) -> None:
        """Move the next reading to the end of the cooldown. The lock is held."""
        earliest_ns = self._tried_ns + self._cooldown_ns
        if self._due_ns is not None and earliest_ns < self._due_ns:
            self._due_ns = earliest_ns
            self._wake.notify()

    def _run(self) -> None:
        while self._wait_until_due():
            self.refresh()

    def _wait_until_due(self) -> bool:
        """Return True when the next reading is due, False when there is to be none."""
        with self._wake:
            while not self._closed:
                wait_s = self.wait_s()
                if wait_s == 0:
                    return True
                self._wake.wait(wait_s)
            return False
