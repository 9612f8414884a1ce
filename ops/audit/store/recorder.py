"""The recorder: workers' appends in, durable entries out, one acknowledgement a worker and commit.

One thread reads, checks, commits and acknowledges (group commit is natural: what arrives while a sync runs makes the
next group); another publishes. Rules:

1. An acknowledgement is sent only after the sync that covers all its entries and payloads returned.
2. An entry that is not canonical or of a kind that is not a gateway's to write, or payloads other than those it names,
   are refused at the door: nothing unverifiable gets into the log, and nobody speaks for the recorder.
3. A failed sync poisons: nothing is acknowledged any more, the process ends with an error.
4. Below its disk reserve, or with too much unpublished, it refuses rather than risk what it promised.
5. Between two epochs (`writing`) appends wait; none is refused, and nobody is hung up on, unless it is told to stop.

It knows nothing of gateways beyond their entries and their in-flight rings.
"""

import os
import re
import selectors
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ops.audit.errors import EntryError, LogFull, TileError
from ops.audit.log.shapes import Shapes
from ops.audit.store import protocol
from ops.audit.store.appender import Append, Appender, check_append, own_append
from ops.audit.store.publish_thread import PublishThread
from ops.audit.store.ring import left_over, ring_files
from ops.audit.store.settings import RecorderSettings
from ops.audit.store.workers import Worker, Workers
from ops.audit.store.writing import Writing
from ops.process.durable import remove_files
from ops.process.logging import Log

if TYPE_CHECKING:
    from ops.metrics.recorder import RecorderMetrics  # at run time only where metrics are on

TAIL_BYTES = 16 << 20  # how much of the recent log is searched for what an in-flight ring still holds
LEASH_BYTES = 4096
PAUSE_S = 0.005  # how often it is looked whether a closed epoch is public
ENTRY_ID = re.compile(rb'"id":"([0-9a-f]{32})"')


class Recorder:
    """Built over an open epoch (`recorder_main` is the composition root)."""

    def __init__(
        self,
        settings: RecorderSettings,
        *,
        listener: socket.socket,
        writing: Writing,
        metrics: "RecorderMetrics | None",
        log: Log,
        monotonic_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._writing = writing
        self._own = writing.own
        self._metrics = metrics
        self._log = log
        self._monotonic_ms = monotonic_ms
        self._selector = selectors.DefaultSelector()
        self._workers = Workers(self._selector, settings.append_bytes_max, self._admit)
        self._shapes = Shapes()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._stopping = False
        self._full = False
        self._due = False  # the next epoch should have begun
        self._gap_open = False
        self._refused = 0
        self._beat_at_ms = monotonic_ms()

    def remember(self, records: Sequence[bytes]) -> None:
        """Framed entries of the recent log, oldest first."""
        self._tail.extend(records)
        self._tail_bytes += sum(map(len, records))
        while self._tail_bytes > TAIL_BYTES and len(self._tail) > 1:
            self._tail_bytes -= len(self._tail.popleft())

    @property
    def refused(self) -> int:
        """Entries that were refused, and that no `gap` entry counts."""
        return self._refused

    def run(self, wake: socket.socket, leash: int | None = None) -> None:
        """Serve until told to stop and all is committed.

        Args:
            wake: readable when there is a signal, or the publishing thread failed.
            leash: a pipe whose other end the supervisor holds, if one does; its end is that of the supervisor.

        Raises:
            RecorderError: poison, another appender; nothing more was acknowledged.
        """
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(wake, selectors.EVENT_READ)
        if leash is not None:
            self._selector.register(leash, selectors.EVENT_READ)
        self._tell_epoch("start" if self._writing.just_begun else "")
        while not self._stopping:
            for key, mask in self._selector.select(self._timeout_s()):
                if key.fileobj is self._listener:
                    self._workers.accept(self._listener, self._greeting())
                elif key.fileobj is wake:
                    self._stopping = True
                elif key.fd == leash:
                    self._stopping |= _ended(key.fd)
                else:
                    self._workers.ready(key.fd, mask)
            self._publishing.check()
            if self._between_epochs():
                continue
            self._chores()
            self._commit_group()
        self._finish()

    def finish(self) -> None:
        """After `run`: publish all that is durable. Raises as `run`.

        An epoch that is closed then is followed by the next one, without which the log would be incomplete.
        """
        self._publishing.finish()
        if self._appender.closed and self._followed():
            self._mind_what_is_due()
            self._publishing.finish()

    @property
    def _appender(self) -> Appender:
        return self._writing.appender

    @property
    def _publishing(self) -> PublishThread:
        return self._writing.publishing

    def _between_epochs(self) -> bool:
        """Close an epoch when it is time, and open the next one when it can be. Returns whether nothing is open now."""
        writing = self._writing
        self._mind_what_is_due()
        if self._due and not writing.appender.closed and not self._full and not self._stopping:
            if self._commit_own([writing.closing_entry()]):
                writing.reached("closed")
            elif self._metrics is not None:
                self._metrics.epoch_failed()
        return writing.appender.closed and not self._followed()

    def _followed(self) -> bool:
        """Open the next epoch when the closed one is public, and say so. Returns whether it is open."""
        writing = self._writing
        if not writing.follow():
            return False
        for worker in self._workers:
            self._workers.send(worker, protocol.reply(protocol.EPOCH, 1, writing.number))
        self._tell_epoch("serving")
        self._log("epoch-begun", origin=writing.origin)
        return True

    def _mind_what_is_due(self) -> None:
        """Report when the next epoch becomes due, and when it has begun."""
        if self._writing.due != self._due:
            self._due = not self._due
            if self._metrics is not None:
                self._metrics.epoch_due(self._own.now_ns() / 1e9 if self._due else 0.0)

    def _tell_epoch(self, begun: str) -> None:
        """Report which epoch is written; `begun` says when it began, where that was just now."""
        if self._metrics is None:
            return
        size, edge = self._appender.size, self._publishing.edge
        self._metrics.epoch(self._writing.number, tree_size=size, public_size=edge.published_size)
        if begun:
            self._metrics.epoch_begun(begun)

    def _timeout_s(self) -> float:
        if self._appender.closed:
            return PAUSE_S
        if self._workers.waiting:
            return 0.0
        return max(self._beat_at_ms - self._monotonic_ms(), 0) / 1000

    def _finish(self) -> None:
        """Commit what has arrived, or refuse it between two epochs; tell the rest that we are gone by closing."""
        self._settle_what_was_sent(self._refuse_waiting if self._appender.closed else self._commit_waiting)
        for worker in self._workers:
            self._workers.drop(worker)
        self._listener.close()
        self._selector.close()

    def _greeting(self) -> bytes:
        settings = self._settings
        greeting = protocol.hello(settings.origin, self._writing.number, self._appender.size, settings.append_bytes_max)
        return greeting + (_state(self._full) if self._full else b"")

    def _admit(self, worker: Worker, records: bytes, pack: bytes) -> None:
        refusal = self._refusal()
        try:
            append = check_append(records, pack, self._shapes)
        except (EntryError, TileError):
            self._log("append-refused", level="error", problem="what came from a worker does not belong in the log")
            worker.queue.append(protocol.INVALID)
            return
        if refusal:
            self._refused += len(append.framed)
            worker.queue.append(refusal)
            return
        worker.queue.append(append)
        worker.queued_bytes += append.nbytes

    def _refusal(self) -> int:
        if self._full:
            return protocol.DISK_FULL
        if self._publishing.edge.backlog > self._settings.backlog_records_max:
            return protocol.BACKLOG
        return 0

    def _settle_what_was_sent(self, settle: Callable[[], None]) -> None:
        """Receive all that workers have sent; `settle` answers what waits, so that there is room for more."""
        for worker in self._workers:
            while self._workers.take(worker):
                settle()
        settle()

    def _refuse_waiting(self) -> None:
        """Nothing of it is recorded: the epoch is closed, and the next one not begun."""
        for worker in self._workers:
            reasons = [protocol.STOPPING if isinstance(item, Append) else item for item in worker.queue]
            self._refused += sum(len(item.framed) for item in worker.queue if isinstance(item, Append))
            worker.queue.clear()
            worker.queued_bytes = 0
            self._workers.send(worker, b"".join(protocol.reply(protocol.REFUSED, 1, reason) for reason in reasons))

    def _commit_waiting(self) -> None:
        while self._workers.waiting:
            self._commit_group()

    def _commit_group(self) -> None:
        """Commit what waits, up to the limits of a group, then answer each worker once."""
        group, answers = self._next_group()
        committed = bool(group) and self._commit(group)
        if group and not committed:
            refused = protocol.reply(protocol.REFUSED, 1, protocol.DISK_FULL)
            answers = [(worker, refused * _appends(answer)) for worker, answer in answers]
        # Acknowledge only now: everything in the group is durable.
        for worker, answer in answers:
            if worker.sock.fileno() >= 0:
                self._workers.send(worker, answer)
        if committed:
            self._committed(group)

    def _next_group(self) -> tuple[list[Append], list[tuple[Worker, bytes]]]:
        """Take what waits, up to the limits of a group, and what to tell each worker once it is durable."""
        group: list[Append] = []
        answers: list[tuple[Worker, bytes]] = []
        records = nbytes = 0
        index = self._appender.size
        for worker in self._workers:
            plan: list[tuple[int, int, int]] = []
            while worker.queue:
                item = worker.queue[0]
                if isinstance(item, int):
                    plan.append((protocol.REFUSED, 1, item))
                else:
                    count = len(item.framed)
                    over = records + count > self._settings.group_records_max
                    if group and (over or nbytes + item.nbytes > self._settings.group_bytes_max):
                        break
                    if plan and plan[-1][0] == protocol.ACK:
                        plan[-1] = (protocol.ACK, plan[-1][1] + 1, plan[-1][2])
                    else:
                        plan.append((protocol.ACK, 1, index))
                    group.append(item)
                    records += count
                    nbytes += item.nbytes
                    index += count
                    worker.queued_bytes -= item.nbytes
                worker.queue.popleft()
            if plan:
                answers.append((worker, b"".join(protocol.reply(*each) for each in plan)))
        self._workers.rotate()
        return group, answers

    def _commit_own(self, entries: Sequence[bytes], heartbeats: int = 0) -> bool:
        """Whether the recorder's own entries are durable."""
        group = [own_append(entries)]
        if not self._commit(group, heartbeats):
            return False
        self._committed(group)
        return True

    def _commit(self, group: Sequence[Append], heartbeats: int = 0) -> bool:
        """Whether the group is durable; False when there is no room for a segment."""
        try:
            self._appender.commit(group, heartbeats)
        except LogFull:
            self._publishing.no_room()
            self._refused += sum(len(each.framed) for each in group)
            return False
        return True

    def _committed(self, group: Sequence[Append]) -> None:
        """What follows a commit and nobody waits for."""
        self.remember([each.records for each in group])
        if self._metrics is not None:
            kinds = Counter(kind for each in group for kind in each.kinds)
            self._metrics.durable(kinds, self._appender.size, self._own.now_ns() / 1e9)
        self._publishing.grown()

    def _chores(self) -> None:
        """The recorder's own entries: heartbeats, what dead workers left, the disk filling up."""
        if self._workers.lost:
            self._workers.lost = False
            self._harvest_rings()
        self._mind_the_room()
        if self._monotonic_ms() >= self._beat_at_ms:
            self._beat_at_ms = self._monotonic_ms() + self._settings.heartbeat_ms
            self._workers.lost = True  # a ring may have been left without a connection
            beat = self._own.heartbeat(self._appender.heartbeats + 1, self._appender.size)
            self._commit_own([beat], heartbeats=1)

    def _mind_the_room(self) -> None:
        """Stop taking appends, or take them again: workers are told, the log keeps both ends of the gap."""
        full = self._publishing.full
        if full == self._full:
            return
        self._full = full
        for worker in self._workers:
            self._workers.send(worker, _state(full))
        states = ["open"] if full else ["close"] if self._gap_open else ["open", "close"]
        gaps = [self._own.gap(state, "disk-full", self._refused) for state in states]
        if self._commit_own(gaps):
            self._gap_open = full
            self._refused = 0

    def _harvest_rings(self) -> None:
        """Requests that were in flight in workers that are gone become outcome-unknown entries, each once."""
        for path in ring_files(self._settings.rings_directory):
            found = left_over(path)
            if found is None:
                continue
            if found.slots:  # the worker is dead: all that it sent is in its socket now, and may be about these
                self._settle_what_was_sent(self._commit_waiting)
            recorded = self._recorded_ids() if found.slots else frozenset()
            missing = [slot for slot in found.slots if slot.request_id.hex().encode() not in recorded]
            entries = [self._own.outcome_unknown(slot.request_id, slot.note, found.context) for slot in missing]
            for start in range(0, len(entries), 256):
                if not self._commit_own(entries[start : start + 256]):
                    return  # no room now; the ring stays for the next time
            remove_files([path])

    def _recorded_ids(self) -> frozenset[bytes]:
        """Ids of the recent entries."""
        return frozenset(ENTRY_ID.findall(b"".join(self._tail)))


def _ended(pipe: int) -> bool:
    """Whether a readable pipe has come to its end; what is said on it means nothing to us."""
    try:
        return not os.read(pipe, LEASH_BYTES)
    except OSError:
        return True


def _state(full: bool) -> bytes:
    return protocol.reply(protocol.STATE, 1, protocol.DISK_FULL if full else 0)


def _appends(answer: bytes) -> int:
    """How many appends a run of replies answers."""
    return sum(count for _, count, _ in protocol.split_replies(answer)[0])
