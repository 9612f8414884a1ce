"""A watch's memory as bytes, and back: msgpack of plain fields, arrays as little-endian bytes.

Only a watch with the same key and calibration can use it: otherwise cells and bounds mean something else. Everything is
checked before anything is taken over: any bytes restore, or are SnapshotInvalid.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec
import numpy as np

from defenses.accounts import direction, returns
from defenses.accounts.account import GAPS, REPEAT_BETS, STEPS_MAX, Account, EProcess
from defenses.accounts.archive import SETS, WAYS
from defenses.accounts.groups import HOT_ANCHORS_MAX, MEMBERS_MAX, Group
from defenses.accounts.kept_answers import ANSWER_BYTES_MAX, Layout
from defenses.accounts.window import AGAIN_MAX, ANCHORS_FIRST, ANCHORS_MAX, Window
from defenses.errors import SnapshotInvalid

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from defenses.accounts.archive import Archive
    from defenses.accounts.kept_answers import KeptAnswers
    from defenses.accounts.known import Known
    from defenses.accounts.similarity import Fingerprint

FORMAT: Final = 2
SNAPSHOT_BYTES_MAX: Final = 256 * 1024 * 1024
QUERIES_MAX: Final = 2**62
ACCOUNTS_AT_ONCE: Final = 500  # are looked at in one hold of the lock: a millisecond
WINDOWS_AT_ONCE: Final = 4

T = TypeVar("T")


class Watch(Protocol):
    """What is kept of a `defenses.accounts.watch.Watch`."""

    fingerprint: Fingerprint
    known: Known
    digests: Mapping[str, str]
    kept: KeptAnswers
    key: bytes
    windows: OrderedDict[str, Window]
    windows_bytes: int

    @property
    def slow(self) -> int: ...


class _Process(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    steps: int
    logs: list[float]


class _AccountState(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    principal: str
    tenant: str
    repeating: _Process
    moving: _Process | None
    since_repeat: int
    queries: int
    repeats: int
    seen_ns: int
    returning: _Process | None = None


class _WindowState(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    tenant: str
    capacity: int
    codes: bytes
    answers: bytes
    visits: bytes
    met: bytes
    exact: bytes
    again: bytes
    askers: list[str]
    queries: int
    newest: int


class _GroupState(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    evidence: _Process
    since_repeat: int
    members: list[str]


class _Memory(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    format: int
    check: bytes
    layouts: list[tuple[str, str, list[int]]] | None
    accounts: list[_AccountState]
    windows: list[_WindowState]
    groups: list[_GroupState]
    archive: tuple[bytes, bytes, bytes, bytes]  # places, tags, logs, steps of what is kept
    hot: tuple[bytes, list[tuple[str, str]], int]


def snapshot(watch: Watch, lock: AbstractContextManager[Any]) -> bytes:
    """Return all that a watch remembers but how accounts last moved.

    `lock` is held for one piece at a time, so that nobody who observes waits for more. Each account and window is in it
    as it was at some moment in between. An account that comes meanwhile, perhaps back from the archive, is not missed.
    """
    with lock:
        names, tenants = list(watch.known.accounts), list(watch.windows)
    accounts = _written(names, watch.known.accounts, _account_state, ACCOUNTS_AT_ONCE, lock)
    windows = _written(tenants, watch.windows, _window_state, WINDOWS_AT_ONCE, lock)
    with lock:
        late = [name for name in watch.known.accounts if name not in accounts]
        accounts |= _written(late, watch.known.accounts, _account_state, max(1, len(late)), nullcontext())
        layouts, archive, hot = watch.kept.layouts, _kept(watch.known.archive), watch.known.hot
        groups = [
            _GroupState(_state(one.evidence), one.since_repeat, [*one.members]) for one in watch.known.groups.all()
        ]
        anchors = (hot.codes.tobytes(), [*hot.askers], hot.newest)
    told = None if layouts is None else [(one.name, one.dtype, list(one.shape)) for one in layouts]
    parts = (list(accounts.values()), list(windows.values()), groups, archive, anchors)
    return msgspec.msgpack.encode((FORMAT, _check(watch), told, *parts))


def _written(
    names: Sequence[str],
    held: Mapping[str, T],
    state: Callable[[str, T], msgspec.Struct],
    at_once: int,
    lock: AbstractContextManager[Any],
) -> dict[str, msgspec.Raw]:
    """Return the encoded state of those that are still held; the lock is held while `at_once` of them are looked at."""
    found = {}
    for first in range(0, len(names), at_once):
        with lock:
            states = {name: state(name, held[name]) for name in names[first : first + at_once] if name in held}
        found.update({name: msgspec.Raw(msgspec.msgpack.encode(each)) for name, each in states.items()})
    return found


def _account_state(name: str, one: Account) -> _AccountState:
    return _AccountState(
        name,
        one.tenant,
        _state(one.repeating),
        None if one.moving is None else _state(one.moving),
        one.since_repeat,
        one.queries,
        one.repeats,
        one.seen_ns,
        None if one.returning is None else _state(one.returning),
    )


def _state(process: EProcess) -> _Process:
    return _Process(process.steps, process.logs)


def _kept(archive: Archive) -> tuple[bytes, bytes, bytes, bytes]:
    places = np.flatnonzero(archive.tags.reshape(-1))
    tags, logs, steps = (part.reshape(-1)[places] for part in (archive.tags, archive.logs, archive.steps))
    return places.astype("<i8").tobytes(), tags.tobytes(), logs.tobytes(), steps.tobytes()


def restore(watch: Watch, data: bytes) -> None:
    """Take over a snapshot; SnapshotInvalid, and nothing has changed, for anything else."""
    if len(data) > SNAPSHOT_BYTES_MAX:
        raise SnapshotInvalid(f"more than {SNAPSHOT_BYTES_MAX} bytes")
    try:
        memory = msgspec.msgpack.decode(data, type=_Memory)
        if memory.format != FORMAT or memory.check != _check(watch):
            raise SnapshotInvalid("of another format, key or calibration")
        layouts = _layouts(memory)
        answer_bytes = sum(layout.nbytes for layout in layouts or ())
        accounts = {one.principal: _account(one) for one in memory.accounts}
        windows = {one.tenant: _window(one, watch, answer_bytes) for one in memory.windows}
        groups = _groups(memory, accounts.keys())
        places, tags, logs, steps = _archive(memory)
        hot, askers, newest = _hot(memory, watch.fingerprint.cells)
    except ValueError as problem:  # msgspec's errors are ValueErrors, and text that is no UTF-8 is one too
        raise SnapshotInvalid(str(problem)) from problem
    except (TypeError, OverflowError) as problem:
        raise SnapshotInvalid("out of range") from problem
    watch.kept.layouts = layouts
    watch.known.accounts.clear()
    watch.known.accounts.update(accounts)
    watch.windows.clear()
    watch.windows.update(windows)
    watch.windows_bytes = sum(window.nbytes for window in windows.values())
    watch.known.groups.restore(groups)
    for held, values, nothing in (
        (watch.known.archive.tags, tags, 0),
        (watch.known.archive.logs, logs, -np.inf),
        (watch.known.archive.steps, steps, 0),
    ):
        held.fill(nothing)
        held.reshape(-1)[places] = values
    watch.known.hot.codes[:], watch.known.hot.askers, watch.known.hot.newest = hot, askers, newest


def _check(watch: Watch) -> bytes:
    """Say which watches understand each other, without giving the key away."""
    digests = "".join(sorted(watch.digests.values()))
    names = "\n".join(sorted(watch.kept.names))
    return blake2b(f"{digests}\n{names}".encode(), digest_size=16, key=watch.key, person=b"watch snapshot").digest()


def _window_state(tenant: str, window: Window) -> _WindowState:
    size = window.size
    return _WindowState(
        tenant,
        len(window.visits),
        window.codes[:, :size].tobytes(),
        window.answers[:size].tobytes(),
        window.visits[:size].tobytes(),
        window.met[:size].tobytes(),
        window.exact[:size].tobytes(),
        window.again.tobytes(),
        [*window.askers],
        window.queries,
        window.newest,
    )


def _layouts(memory: _Memory) -> tuple[Layout, ...] | None:
    if memory.layouts is None:
        return None
    layouts = tuple(Layout(name, dtype, tuple(shape)) for name, dtype, shape in memory.layouts)
    _require(len(layouts) <= 64, "too many outputs")
    for layout in layouts:
        _require(np.dtype(layout.dtype).kind in "fiub" and len(layout.shape) <= 8, "an output of no numbers")
        _require(all(0 <= side <= ANSWER_BYTES_MAX for side in layout.shape), "an output too large")
        _require(layout.nbytes <= ANSWER_BYTES_MAX, "an output too large")
    return layouts


def _process(state: _Process, bets: int) -> EProcess:
    _require(len(state.logs) == bets and not any(math.isnan(value) for value in state.logs), "evidence of other bets")
    _require(0 <= state.steps <= STEPS_MAX, "steps")
    process = EProcess(bets)
    process.steps, process.logs = state.steps, state.logs
    return process


def _account(state: _AccountState) -> Account:
    _require(1 <= state.since_repeat <= GAPS[-1], "queries since a repeat")
    _require(all(0 <= count <= QUERIES_MAX for count in (state.queries, state.repeats)), "counts")
    return Account(
        state.tenant,
        _process(state.repeating, len(REPEAT_BETS)),
        state.since_repeat,
        state.queries,
        state.repeats,
        state.seen_ns,
        None if state.moving is None else _process(state.moving, direction.BETS),
        returning=None if state.returning is None else _process(state.returning, returns.BETS),
    )


def seed_of(key: bytes, tenant: str) -> int:
    """Return what chance in a tenant's window follows from: secret, and the same after a restart."""
    return int.from_bytes(blake2b(tenant.encode(), digest_size=8, key=key, person=b"watch window").digest(), "big")


def _window(state: _WindowState, watch: Watch, answer_bytes: int) -> Window:
    capacity, size, cells = state.capacity, len(state.askers), watch.fingerprint.cells
    _require(ANCHORS_FIRST <= capacity <= ANCHORS_MAX and size <= capacity, "a window's capacity")
    _require(0 <= state.queries <= QUERIES_MAX and 0 <= state.newest < AGAIN_MAX, "a window's counts")
    window = Window(
        np.zeros((cells, capacity), np.uint8),
        np.zeros((capacity, answer_bytes), np.uint8),
        np.zeros(capacity, np.uint8),
        np.zeros(capacity, np.int64),
        np.zeros(capacity, np.uint64),
        _array(state.again, "<u8", (AGAIN_MAX,)),
        state.askers,
        seed_of(watch.key, state.tenant),
        state.queries,
        state.newest,
        watch.slow,
    )
    window.codes[:, :size] = _array(state.codes, "<u1", (cells, size))
    window.answers[:size] = _array(state.answers, "<u1", (size, answer_bytes))
    window.visits[:size] = _array(state.visits, "<u1", (size,))
    window.met[:size] = _array(state.met, "<i8", (size,))
    window.exact[:size] = _array(state.exact, "<u8", (size,))
    _require(bool(((window.met >= 0) & (window.met <= state.queries)).all()), "a window's times")
    return window


def _groups(memory: _Memory, known: Any) -> list[Group]:
    seen: set[str] = set()
    groups = []
    for state in memory.groups:
        members = set(state.members)
        _require(2 <= len(state.members) == len(members) <= MEMBERS_MAX, "a group's members")
        _require(members <= known and not members & seen, "a group of others")
        _require(1 <= state.since_repeat <= GAPS[-1], "queries since a repeat")
        seen |= members
        groups.append(Group(_process(state.evidence, len(REPEAT_BETS)), state.since_repeat, state.members))
    return groups


def _archive(memory: _Memory) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    count = len(memory.archive[0]) // 8
    _require(count <= SETS * WAYS, "an archive too large")
    parts = zip(memory.archive, ("<i8", "<u8", "<f4", "<u8"), strict=True)
    places, tags, logs, steps = (_array(part, dtype, (count,)) for part, dtype in parts)
    _require(bool(((places >= 0) & (places < SETS * WAYS)).all()) and np.unique(places).size == count, "places")
    _require(not np.isnan(logs).any() and bool((steps <= STEPS_MAX).all()) and bool((tags > 0).all()), "an archive")
    return places, tags, logs, steps


def _hot(memory: _Memory, cells: int) -> tuple[NDArray[Any], list[tuple[str, str]], int]:
    codes, askers, newest = memory.hot
    _require(len(askers) <= HOT_ANCHORS_MAX and 0 <= newest < HOT_ANCHORS_MAX, "hot anchors")
    _require(len(askers) == HOT_ANCHORS_MAX or newest == len(askers), "hot anchors")
    return _array(codes, "<u1", (cells, HOT_ANCHORS_MAX)), list(askers), newest


def _array(data: bytes, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    kind = np.dtype(dtype)
    _require(len(data) == math.prod(shape) * kind.itemsize, "an array of another size")
    return np.frombuffer(data, kind).reshape(shape).astype(kind.newbyteorder("="))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise SnapshotInvalid(what)
