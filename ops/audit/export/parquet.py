"""The log as Parquet, for questions in SQL: the same entries always give the same bytes.

One file for 65,536 records, `000000.parquet` first, the last one as long as the log is. Each row is one entry: its leaf
index and leaf hash, flat columns for what people ask, and the whole entry as JSON. An index holds nothing of its own:
whoever has the log can make it again and compare, which is what `check_index` does. So an index cannot hide a row.

Rules:
- A row is written only when its entry was shown to lead to the root that is signed.
- A file is replaced, never changed; `index.json` says last how far the index goes.
- The bytes depend on the version of the library that writes them, so that version is written down: with another one an
  index is made anew, and is not compared.

The only module that imports pyarrow (extra `audit`), and that when it is used.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ops.audit.errors import IndexRejected, ProofError, QueryUnavailable
from ops.audit.log.entry import parse
from ops.audit.log.merkle import Frontier, leaf_hash, leaf_hashes
from ops.audit.reader.read import LogReader
from ops.process.durable import keep_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ops.audit.verify.report import Report

FILE_RECORDS = 65_536
FORMAT = 1
STATE = "index.json"
STATE_BYTES_MAX = 4096
STAGES = ("auth", "admit", "decode", "queue", "infer", "screen", "harden")
VERDICTS = ("pass", "flag", "refuse")
SCREEN_FIELDS = ("name", "mode", "verdict", "p", "score", "threshold", "technique")
_MICRO = 1_000_000

Progress = Callable[[int, int], None]

COLUMNS: dict[str, str] = {
    "leaf_index": "int64",
    "leaf_hash": "string",
    "time": "time",
    "time_ns": "uint64",
    "kind": "string",
    "id": "string",
    "gateway": "string",
    "tenant": "string",
    "principal": "string",
    "credential": "string",
    "auth_method": "string",
    "peer": "string",
    "method": "string",
    "model": "string",
    "version": "string",
    "model_digest": "string",
    "engine": "string",
    "decision": "string",
    "reason": "string",
    "status": "int64",
    "rows": "int64",
    "refusals": "int64",
    "limit_rule": "string",
    "verdict": "string",
    "p_min": "double",
    "account_step": "string",
    "budget_step": "string",
    "batch_id": "int64",
    "batch_size": "int64",
    "deadline_us": "int64",
    **{f"{stage}_us": "int64" for stage in STAGES},
    "policy": "string",
    "config": "string",
    "trace": "string",
    "screens": "screens",
    "entry": "string",
}
"""Name and type of each column, in order. `time` is UTC; `refusals` counts those that one entry sums; `limit_rule` is
the rule that refused; `verdict` and `p_min` are the worst of the entry's screens."""


@dataclass(frozen=True, slots=True)
class Index:
    """How far an index goes: the records [0, size) of this log, whose tree had this root (hex)."""

    origin: str
    size: int
    root: str
    writer: str
    format: int = FORMAT


def update_index(directory: Path, reader: LogReader, progress: Progress = lambda _done, _all: None) -> Index:
    """Bring the index in `directory` up to the reader's checkpoint; it is made where there is none.

    Raises:
        QueryUnavailable: pyarrow is not installed.
        IndexRejected: the directory holds something else.
        ReadError, EntryError: the log cannot be read.
        ProofError: the entries do not lead to the root that is signed, or the index is of another log.
    """
    head, writer = reader.checkpoint, writer_here()
    size = size_here(directory, reader, writer)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    first = size - size % FILE_RECORDS
    tree = reader.frontier(first)
    made: list[Path] = []
    for start, entries in parts(reader, first if size < head.size else head.size):
        tree.extend(leaf_hashes(entries))
        made.append(staged := directory / f"{start // FILE_RECORDS:06d}.staged")
        keep_file(staged, file_of(start, entries))
        progress(start + len(entries), head.size)
    if made and tree.root() != head.root:
        for staged in made:
            staged.unlink()
        raise ProofError(f"the entries from {first} on do not lead to the root that is signed for {head.size}")
    for staged in made:  # only now is it known that these are the entries that were signed
        staged.replace(staged.with_suffix(".parquet"))
    index = Index(head.origin, head.size, head.root.hex(), writer)
    keep_file(directory / STATE, json.dumps(asdict(index)).encode() + b"\n")
    return index


def size_here(directory: Path, reader: LogReader, writer: str) -> int:
    """Return how far the index in a directory goes, once it is known to be of this log. Another writer's is removed."""
    held, head = read_index(directory), reader.checkpoint
    if held is None:
        if directory.exists() and any(directory.iterdir()):
            raise IndexRejected(directory, f"is not empty and holds no {STATE}: name a directory of its own")
        return 0
    if (held.writer, held.format) != (writer, FORMAT):
        for file in index_files(directory):
            file.unlink()
        (directory / STATE).unlink()
        return 0
    if held.origin != head.origin or held.size > head.size:
        raise ProofError(f"the index goes to {held.size} of {held.origin}; the log is another one, or an older copy")
    if reader.frontier(held.size).root().hex() != held.root:
        raise ProofError("the index was made from another log than this one")
    return held.size


def check_index(
    directory: Path, reader: LogReader, report: Report, progress: Progress = lambda _done, _all: None
) -> int:
    """Make each file of an index again from the log, and compare. Returns the number of records it holds.

    What differs is `tampered`, what is missing `incomplete`. The rest of the log, which came after the index was made,
    is worth a notice.

    Raises:
        QueryUnavailable, IndexRejected, ReadError, EntryError, ProofError: as `update_index`.
    """
    held = read_index(directory)
    if held is None:
        raise IndexRejected(directory, f"holds no {STATE}, so it is no index")
    if (held.writer, held.format) != (writer_here(), FORMAT):
        problem = f"was written by {held.writer} and cannot be compared with what {writer_here()} writes: query anew"
        raise IndexRejected(directory, problem)
    head = reader.checkpoint
    if held.origin != head.origin or held.size > head.size:
        report.add("tampered", f"it goes to {held.size} of {held.origin}; the log has {head.size}", STATE)
        return 0
    wanted = compare_files(directory, held.size, reader, report, progress)
    if reader.frontier(held.size).root().hex() != held.root:
        report.add("tampered", f"it says that the log had another root at {held.size}", STATE)
    for file in index_files(directory):
        if file.name not in wanted:
            report.add("tampered", "no part of the log gives this file", file.name)
    if held.size < head.size:
        report.add("notice", f"the index holds the first {held.size:,} of {head.size:,} records", STATE)
    return held.size


def compare_files(directory: Path, size: int, reader: LogReader, report: Report, progress: Progress) -> set[str]:
    """Compare the files of the first `size` records; returns their names. ProofError: the log is not the signed one."""
    tree, wanted = Frontier(), set[str]()
    for start, entries in parts(reader, 0):
        tree.extend(leaf_hashes(entries))
        if start < size:
            name = f"{start // FILE_RECORDS:06d}.parquet"
            wanted.add(name)
            compare(directory / name, start, entries[: size - start], report)
        progress(start + len(entries), reader.checkpoint.size)
    if tree.root() != reader.checkpoint.root:
        raise ProofError(f"the entries do not lead to the root that is signed for {reader.checkpoint.size}")
    return wanted


def compare(file: Path, start: int, entries: Sequence[bytes], report: Report) -> None:
    """Say whether a file holds exactly these entries."""
    try:
        found = file.read_bytes()
    except FileNotFoundError:
        report.add("incomplete", "the file is missing", file.name)
        return
    if found != file_of(start, entries):
        report.add("tampered", f"does not hold exactly the entries {start} to {start + len(entries) - 1}", file.name)


def parts(reader: LogReader, first: int) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the log from `first`, where a file begins, a file at a time."""
    for start in range(first, reader.checkpoint.size, FILE_RECORDS):
        yield start, reader.entries(start, min(FILE_RECORDS, reader.checkpoint.size - start))


def read_index(directory: Path) -> Index | None:
    """Return what is written down of an index, None where there is none. Raises IndexRejected."""
    file = directory / STATE
    try:
        with file.open("rb") as source:
            found = json.loads(source.read(STATE_BYTES_MAX))
        index = Index(**found)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as problem:
        raise IndexRejected(
            directory, f"{STATE} says nothing that can be understood; remove the directory"
        ) from problem
    if not (isinstance(index.size, int) and index.size >= 0 and isinstance(index.root, str)):
        raise IndexRejected(directory, f"{STATE} says nothing that can be understood; remove the directory")
    return index


def index_files(directory: Path) -> list[Path]:
    """Return the Parquet files of an index, in order."""
    return sorted(directory.glob("*.parquet"))


def writer_here() -> str:
    """Return what writes Parquet here. QueryUnavailable where nothing does."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"pyarrow {version('pyarrow')}"
    except PackageNotFoundError as problem:
        raise QueryUnavailable("pyarrow") from problem


def file_of(first: int, entries: Sequence[bytes]) -> bytes:
    """Return the Parquet file of the entries from index `first` on: the same bytes for the same entries.

    Raises:
        EntryError: one of them is no entry.
        QueryUnavailable: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as problem:
        raise QueryUnavailable("pyarrow") from problem
    rows = [row_of(index, data) for index, data in enumerate(entries, first)]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(COLUMNS)
    schema = pa.schema([(name, arrow_type(kind)) for name, kind in COLUMNS.items()])
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema),
        out,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=["kind", "gateway", "tenant", "principal", "method", "model", "version", "decision", "reason"],
        row_group_size=16_384,
        store_schema=False,
    )
    return out.getvalue()


def arrow_type(kind: str) -> Any:
    """Return Arrow's type of a column."""
    import pyarrow as pa

    if kind == "time":
        return pa.timestamp("us")
    if kind == "screens":
        types = {name: pa.float64() if name in {"p", "score", "threshold"} else pa.string() for name in SCREEN_FIELDS}
        return pa.list_(pa.struct(list(types.items())))
    return pa.type_for_alias(kind)


def row_of(index: int, data: bytes) -> tuple[Any, ...]:
    """Return an entry's row, in the order of COLUMNS. EntryError: it is none."""
    entry = parse(data)
    auth, batch, model = entry.get("auth", {}), entry.get("batch", {}), entry.get("model", {})
    timings, screens = entry.get("timings_us", {}), entry.get("screens")
    refused = [limit["rule"] for limit in entry.get("limits", ()) if limit["decision"] == "refuse"]
    time_ns = int(entry["time_ns"])
    return (
        index,
        leaf_hash(data).hex(),
        time_ns // 1000,
        time_ns,
        entry["kind"],
        entry["id"],
        entry.get("gateway"),
        auth.get("tenant", entry.get("tenant")),
        auth.get("principal", entry.get("principal")),
        auth.get("credential"),
        auth.get("method"),
        entry.get("peer"),
        entry.get("method"),
        model.get("name", entry.get("name")),
        model.get("version", entry.get("version")),
        model.get("digest"),
        model.get("engine"),
        entry.get("decision"),
        entry.get("reason"),
        entry.get("status"),
        entry.get("rows"),
        entry.get("count"),
        refused[0] if refused else None,
        max((screen["verdict"] for screen in screens), key=VERDICTS.index) if screens else None,
        min(screen["p_micro"] for screen in screens) / _MICRO if screens else None,
        entry.get("account", {}).get("step"),
        entry.get("budget", {}).get("step"),
        batch.get("id"),
        batch.get("size"),
        entry.get("deadline_us"),
        *(timings.get(stage) for stage in STAGES),
        entry.get("policy"),
        entry.get("config"),
        entry.get("trace"),
        None if screens is None else [screen_row(screen) for screen in screens],
        data.decode(),
    )


def screen_row(screen: dict[str, Any]) -> dict[str, Any]:
    """Return what one screen said, in the units of the field rather than in micro-units."""
    numbers = {name: screen[f"{name}_micro"] / _MICRO for name in ("score", "threshold", "p")}
    return {name: numbers[name] if name in numbers else screen[name] for name in SCREEN_FIELDS}
