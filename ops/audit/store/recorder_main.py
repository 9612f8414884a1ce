"""The recorder's process: `python -m ops.audit.store.recorder_main SETTINGS.json`.

Composition root and exit codes: 0 after SIGTERM or SIGINT with everything durable and public; 64 wrong usage; 65 the
log is damaged; 70 refused to start; 73 no room to start; 74 poisoned by an I/O error; 75 another appender, or somebody
holds a database of the log; 76 the signer was shown a fork. One line on standard error (`ops.process.logging`) says
why, and one on standard output says it to the supervisor. Ready when its socket accepts.

Where standard input is a pipe, a supervisor holds its other end, and its end means the same as SIGTERM: a supervisor
that was killed leaves no recorder behind. A terminal or /dev/null means nothing.
"""

import contextlib
import errno
import os
import signal
import socket
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from ops.audit.errors import AppenderRunning, AuditError, LogCorrupted, LogFull, RecorderError, SettingsError
from ops.audit.log.checkpoint import SignerKey, parse_skey
from ops.audit.log.entry import KINDS
from ops.audit.store.lock import AppenderFlock
from ops.audit.store.own_entries import OwnEntries
from ops.audit.store.publish_thread import PublishThread
from ops.audit.store.recorder import Recorder
from ops.audit.store.settings import RecorderSettings
from ops.audit.store.signer import demand_unsealed
from ops.audit.store.writing import Writing
from ops.process.durable import make_directories, sync_directory
from ops.process.logging import Log, configure

if TYPE_CHECKING:
    from ops.metrics.recorder import RecorderMetrics  # at run time only where metrics are on

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


def load_metrics(settings: RecorderSettings, stack: contextlib.ExitStack) -> "RecorderMetrics | None":
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


@contextlib.contextmanager
def failed_changes_counted(writing: Writing, metrics: "RecorderMetrics") -> Iterator[None]:
    """Count it where the recorder ends between two epochs."""
    try:
        yield
    except BaseException:
        if writing.changing:
            metrics.epoch_failed()
        raise


def serve(settings: RecorderSettings, log: Log, reached: Callable[[str], None]) -> None:
    """Run until told to stop. Raises RecorderError and its kin. `reached`: see `Writing`."""
    state = settings.state_directory
    for changed in make_directories(state):
        sync_directory(changed)
    key = open_key(settings)
    wake_out, wake_in = socket.socketpair()

    def wake() -> None:
        wake_in.send(b"!")

    with contextlib.ExitStack() as stack:
        stack.callback(AppenderFlock(state / "appender.flock").close)
        demand_unsealed(state)
        metrics = load_metrics(settings, stack)

        def published(size: int) -> None:
            if metrics is not None:
                metrics.published(size, time.time())

        writing = Writing(
            settings,
            key,
            OwnEntries(settings.build, time.time_ns, lambda: os.urandom(16), settings.heartbeat_ms),
            partial(PublishThread, wake=wake, published=published, log=log),
            reached,
        )
        if metrics is not None:
            stack.enter_context(failed_changes_counted(writing, metrics))
        writing.open()
        stack.callback(writing.close)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: wake())
        recorder = Recorder(
            settings,
            listener=listen(settings.socket, settings.socket_mode),
            writing=writing,
            metrics=metrics,
            log=log,
            monotonic_ms=lambda: time.monotonic_ns() // 1_000_000,
        )
        recorder.remember(writing.tail)
        writing.publishing.start()
        log("recorder-ready", origin=writing.origin, size=writing.appender.size)
        try:
            recorder.run(wake_out, leash())
        except BaseException:
            writing.publishing.abandon()
            raise
        recorder.finish()
    log("recorder-stopped", size=writing.appender.size, refused=recorder.refused)


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m ops.audit.store.recorder_main SETTINGS.json\n")
        return 64
    return run(lambda: RecorderSettings.from_json(Path(arguments[0]).read_bytes()))


def run(settings_of: Callable[[], RecorderSettings], reached: Callable[[str], None] = lambda _point: None) -> int:
    """Run with the settings that `settings_of` reads, until told to stop. Returns the exit code.

    `reached`: see `Writing`.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    log = configure("info", sys.stderr, role="recorder")
    try:
        settings = settings_of()
        log = configure(settings.log_level, sys.stderr, format=settings.log_format, role="recorder")
        serve(settings, log, reached)
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
    """Tell whoever started this process why it ends, for the person at the terminal; who is gone is not told."""
    with contextlib.suppress(OSError):  # past the buffer of stdout, which would be tried again at the end
        os.write(sys.stdout.fileno(), orjson.dumps({"event": "failed", "problem": problem}) + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
