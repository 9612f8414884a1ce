"""The recorder's process: `python -m ops.audit.recorder_main SETTINGS.json`.

Composition root and exit codes: 0 after SIGTERM or SIGINT with everything durable and public; 64 wrong usage; 65 the
log is damaged; 70 refused to start; 73 no room to start; 74 poisoned by an I/O error; 75 another appender, or somebody
holds a database of the log; 76 the signer was shown a fork. One line on standard error (`ops.logging`) says why, and
one on standard output says it to the supervisor. Ready when its socket accepts.

Where standard input is a pipe, a supervisor holds its other end, and its end means the same as SIGTERM: a supervisor
that was killed leaves no recorder behind. A terminal or /dev/null means nothing.
"""

import contextlib
import errno
import os
import secrets
import signal
import socket
import sqlite3
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from ops.audit.appender import Appender, own_append
from ops.audit.checkpoint import SignerKey, parse_skey
from ops.audit.durable import make_directories, sync_directory, sync_file
from ops.audit.entry import KINDS
from ops.audit.errors import AppenderRunning, AuditError, LogCorrupted, LogFull, RecorderError, SettingsError
from ops.audit.lock import AppenderFlock, LockDatabase
from ops.audit.own_entries import OwnEntries
from ops.audit.publish_thread import PublishThread
from ops.audit.publisher import Publisher
from ops.audit.recorder import Recorder, RecorderMetrics
from ops.audit.recovery import Recovered, read_checkpoint, recover
from ops.audit.segment_store import SegmentStore
from ops.audit.settings import RecorderSettings
from ops.audit.signer import Signer, demand_unsealed
from ops.logging import Log, configure

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
SWITCH_INTERVAL_S = 0.0005  # the committer must not wait 5 ms for the publisher to hand over the interpreter


def open_key(settings: RecorderSettings) -> SignerKey:
    """The log's key; its name must be the origin."""
    key = parse_skey(settings.signing_key.read_text().strip())
    if key.name != settings.origin:
        raise SettingsError(f"the signing key is that of {key.name}, the origin is {settings.origin}")
    return key


def listen(path: Path, mode: int) -> socket.socket:
    """A fresh unix socket that only this user can reach, or its group too."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    path.chmod(mode)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def leash() -> int | None:
    """Standard input, if somebody holds its other end."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return None
    return 0 if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def prepare_directories(settings: RecorderSettings) -> None:
    """Everything the recorder writes to exists, durably: also what a process made that was killed before its sync."""
    state = settings.state_directory
    changed: set[Path] = set()
    for directory in (settings.directory, state, state / "segments", state / "staging", settings.rings_directory):
        changed |= {*make_directories(directory), directory.parent}
    for each in sorted(changed):
        sync_directory(each)


def opening_entry(own: OwnEntries, settings: RecorderSettings, key: SignerKey, found: Recovered) -> bytes:
    """Genesis on an empty log, else `recover`, which says what this start found."""
    size, root = found.edge.head()
    if size == 0:
        return own.genesis(settings.origin, str(key.verifier))
    return own.recover(size, root, torn_bytes=found.torn_bytes, unpublished=found.edge.backlog)


def load_metrics(settings: RecorderSettings, stack: contextlib.ExitStack) -> RecorderMetrics | None:
    """The gateway's metrics, where they are configured.

    Raises:
        SettingsError: another process writes under the recorder's name there.
    """
    if settings.metrics_directory is None:
        return None
    from ops import metrics  # noqa: PLC0415 (prometheus_client, only where it is used)

    try:
        found = metrics.RecorderMetrics(settings.metrics_directory, "recorder", kinds=KINDS)
    except metrics.MetricsInUse as error:
        raise SettingsError(f"another process writes metrics as {error.process}") from error
    stack.callback(found.close)
    return found


def find(settings: RecorderSettings, key: SignerKey, lock: LockDatabase, store: SegmentStore) -> Recovered:
    """The durable log, read and checked.

    It is made durable first. A recorder that was killed may have left a group, or the name of a checkpoint, in memory
    alone: what is built on it now must not outlive it.
    """
    segments = store.paths()
    for path in segments:
        sync_file(path)
    for directory in (settings.state_directory / "segments", settings.directory):
        sync_directory(directory)
    public_file = settings.directory / "checkpoint"
    public = public_file.read_bytes() if public_file.exists() else None
    found = recover(
        settings.directory,
        segments,
        settings.origin,
        public=read_checkpoint(public, key.verifier, public_file),
        signed=read_checkpoint(lock.read(), key.verifier, settings.state_directory / "lock.sqlite"),
    )
    for number, size in found.ends:
        store.closed(number, size)
    return found


def go_on(
    settings: RecorderSettings, key: SignerKey, store: SegmentStore, found: Recovered, own: OwnEntries
) -> Appender:
    """An appender in a new segment behind what was found, with the entry that says so."""
    first = opening_entry(own, settings, key, found)
    appender = Appender(
        store,
        found.edge,
        found.frontier,
        settings.origin,
        number=found.next_number,
        previous=found.previous,
        heartbeats=found.heartbeats,
    )
    appender.commit([own_append([first])])
    return appender


def serve(settings: RecorderSettings, log: Log) -> None:
    """Run until told to stop. Raises RecorderError and its kin."""
    prepare_directories(settings)
    state = settings.state_directory
    key = open_key(settings)
    wake_out, wake_in = socket.socketpair()

    def wake() -> None:
        wake_in.send(b"!")

    with contextlib.ExitStack() as stack:
        stack.callback(AppenderFlock(state / "appender.flock").close)
        demand_unsealed(state)
        lock = stack.enter_context(LockDatabase(state / "lock.sqlite", settings.origin))
        signer = Signer(key, settings.signing_key.with_suffix(".signed"))
        store = SegmentStore(state / "segments", settings.segment_bytes)
        found = find(settings, key, lock, store)
        edge = found.edge
        publisher = Publisher(
            settings.directory, state / "staging", edge=edge, signer=signer, lock=lock, vkey=key.verifier
        )
        publisher.check_signed()
        metrics = load_metrics(settings, stack)
        own = OwnEntries(settings.build, time.time_ns, lambda: secrets.token_bytes(16), settings.heartbeat_ms)
        appender = go_on(settings, key, store, found, own)
        stack.callback(appender.close)

        def published(size: int) -> None:
            if metrics is not None:
                metrics.published(size, time.time())

        publishing = PublishThread(
            settings, edge=edge, publisher=publisher, store=store, wake=wake, published=published, log=log
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: wake())
        recorder = Recorder(
            settings,
            listener=listen(settings.socket, settings.socket_mode),
            appender=appender,
            publishing=publishing,
            own=own,
            metrics=metrics,
            log=log,
            monotonic_ms=lambda: time.monotonic_ns() // 1_000_000,
        )
        recorder.remember([*found.tail])
        publishing.start()
        log("recorder-ready", origin=settings.origin, size=appender.size)
        try:
            recorder.run(wake_out, leash())
        except BaseException:
            publishing.abandon()
            raise
        publishing.finish()
    log("recorder-stopped", size=appender.size)


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m ops.audit.recorder_main SETTINGS.json\n")
        return 64
    return run(lambda: RecorderSettings.from_json(Path(arguments[0]).read_bytes()))


def run(settings_of: Callable[[], RecorderSettings]) -> int:
    """Run with the settings that `settings_of` reads, until told to stop. Returns the exit code."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    log = configure("info", sys.stderr, role="recorder")
    try:
        settings = settings_of()
        log = configure(settings.log_level, sys.stderr, format=settings.log_format, role="recorder")
        serve(settings, log)
    except RecorderError as error:
        where = os.fspath(error.where) if isinstance(error, LogCorrupted) else None
        problem = error.problem if isinstance(error, LogCorrupted) else str(error)
        log("recorder-failed", level="error", error=type(error).__name__, problem=problem, file=where)
        say_why(str(error))
        return error.exit_code
    except OSError as error:
        log("recorder-refused", level="error", error="OSError", problem=error.strerror, file=error.filename)
        say_why(": ".join(filter(None, (error.filename, error.strerror))))
        return LogFull.exit_code if error.errno in NO_ROOM else RecorderError.exit_code
    except (AuditError, sqlite3.Error) as error:
        log("recorder-refused", level="error", error=type(error).__name__, problem=str(error))
        say_why(str(error))
        return AppenderRunning.exit_code if isinstance(error, sqlite3.OperationalError) else RecorderError.exit_code
    return 0


def say_why(problem: str) -> None:
    """Tell whoever started this process why it ends, for the person at the terminal."""
    sys.stdout.write(orjson.dumps({"event": "failed", "problem": problem}).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
