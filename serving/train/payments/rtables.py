"""Tables that R saved: `.rda` files, and the lazy-load database in which an installed R package keeps its data.

Rules:
- Reading never runs anything: rdata parses R's serialization (R Internals, section 1.8) and evaluates none of it.
- Decompression is bounded, before the parser sees a byte, so a bomb costs nothing.
- Whatever is wrong with the bytes is `DatasetMalformed`; text in an encoding that is not said is refused, not guessed.

Only plain data frames are read: columns of numbers, factors or text. Of what R keeps as formulas (ALTREP) only 1:n.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import lzma
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.train.errors import DatasetMalformed, DatasetMissing

FILE_BYTES_MAX = 64 * 1024 * 1024
TABLE_BYTES_MAX = 64 * 1024 * 1024
ROWS_MAX = 1_000_000

_GZIP_WINDOW = 31
_LAZY_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
_SERIALIZED = (b"X\n", b"A\n", b"B\n")
_SAVED = (b"RDX", b"RDA", b"RDB")


@dataclass(frozen=True, slots=True)
class Column:
    """float64 (rows,): numbers, or codes 0 .. into `levels`; NaN where a value is missing."""

    values: NDArray[np.float64]
    levels: tuple[str, ...] = ()


Table = Mapping[str, Column]


def read_rda(path: Path, name: str) -> Table:
    """Return the data frame `name` of an `.rda` file, compressed in any of R's ways or not at all.

    Raises:
        DatasetMalformed: the file is not that.
        DatasetMissing: rdata is not installed.
        OSError: it cannot be read.
    """
    data = _bytes_of(path)
    if data[:2] == b"\x1f\x8b":
        data = _inflated(zlib.decompressobj(_GZIP_WINDOW), data, path.name)
    elif data[:3] == b"BZh":
        data = _inflated(bz2.BZ2Decompressor(), data, path.name)
    elif data[:6] == b"\xfd7zXZ\x00":
        data = _inflated(lzma.LZMADecompressor(lzma.FORMAT_XZ), data, path.name)
    if not data.startswith(_SAVED):
        raise DatasetMalformed(path.name, "is not what R's save() writes")
    objects = _objects(data, path.name, ".rda")
    if not isinstance(objects, dict) or name not in objects:
        raise DatasetMalformed(path.name, f"holds no table {name}")
    return _table(objects[name], path.name)


def read_database(directory: Path, name: str) -> Table:
    """Return the data frame `name` from the `Rdata.rdx` and `Rdata.rdb` of a package; errors as `read_rda`."""
    index_file, data_file = directory / "Rdata.rdx", directory / "Rdata.rdb"
    raw = _inflated(zlib.decompressobj(_GZIP_WINDOW), _bytes_of(index_file), index_file.name)
    index = _objects(raw, index_file.name, ".rds")
    try:
        start, length = (int(number) for number in index["variables"][name])
        compression = int(index["compressed"][0])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DatasetMalformed(index_file.name, f"does not say where {name} is") from error
    data = _bytes_of(data_file)
    if start < 0 or length < 5 or start + length > len(data):
        raise DatasetMalformed(data_file.name, f"ends before {name} does")
    serialized = _record(data[start : start + length], compression, data_file.name)
    return _table(_objects(serialized, data_file.name, ".rds"), data_file.name)


def table_digest(table: Table) -> str:
    """SHA-256 of the content: names, levels and values, whatever file they came in."""
    state = hashlib.sha256()
    for name in sorted(table):
        column = table[name]
        values = np.where(np.isnan(column.values), np.nan, column.values)  # one NaN for all
        state.update(json.dumps([name, column.levels, len(values)]).encode() + b"\n")
        state.update(values.astype("<f8").tobytes())
    return state.hexdigest()


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise DatasetMalformed(path.name, f"is larger than {FILE_BYTES_MAX} bytes")
        return file.read()


def _inflated(inflater: Any, data: bytes, file: str) -> bytes:
    try:
        raw: bytes = inflater.decompress(data, TABLE_BYTES_MAX + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise DatasetMalformed(file, "is damaged: it does not decompress") from error
    if len(raw) > TABLE_BYTES_MAX:
        raise DatasetMalformed(file, f"is larger than {TABLE_BYTES_MAX} bytes when decompressed")
    if not inflater.eof or inflater.unused_data:
        raise DatasetMalformed(file, "is cut off, or more follows than there should")
    return raw


def _record(record: bytes, compression: int, file: str) -> bytes:
    """Undo one record of a database (R's src/main/serialize.c): its length, how it is compressed, the bytes."""
    (size,) = struct.unpack_from(">I", record)
    if size > TABLE_BYTES_MAX:
        raise DatasetMalformed(file, f"is larger than {TABLE_BYTES_MAX} bytes when decompressed")
    if compression == 1:
        raw = _inflated(zlib.decompressobj(), record[4:], file)
    else:
        kind, body = record[4:5], record[5:]
        inflaters: dict[bytes, Callable[[], Any]] = {
            b"1": zlib.decompressobj,
            b"2": bz2.BZ2Decompressor,
            b"Z": lambda: lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LAZY_LZMA),
        }
        if kind not in {b"0", *inflaters}:
            raise DatasetMalformed(file, "is compressed in a way that is not known")
        raw = body if kind == b"0" else _inflated(inflaters[kind](), body, file)
    if len(raw) != size:
        raise DatasetMalformed(file, f"does not decompress to {size} bytes")
    return raw


def _objects(data: bytes, file: str, extension: str) -> Any:
    """Parse a serialization; data frames become dicts of columns, factors become columns."""
    if not data.startswith((*_SERIALIZED, *_SAVED)):
        raise DatasetMalformed(file, "is not R's serialization")
    rdata = _rdata()
    constructors: dict[str | bytes, Callable[[Any, Mapping[str, Any]], Any]] = {
        "data.frame": _frame,
        "tbl_df": _frame,
        "tbl": _frame,
        "factor": _factor,
        "ordered": _factor,
    }
    sequences = {b"compact_intseq": _sequence}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an encoding that has to be guessed is a warning there
            warnings.filterwarnings("ignore", message="Missing constructor")
            parsed = rdata.parser.parse_data(data, altrep_constructor_dict=sequences, extension=extension)
            return rdata.conversion.SimpleConverter(constructor_dict=constructors).convert(parsed)
    except Exception as error:  # the parser's exceptions have no root of their own
        encoding = isinstance(error, UnicodeError | Warning) or type(error) is LookupError
        problem = "holds text in another encoding than it says" if encoding else "is not R's serialization"
        raise DatasetMalformed(file, problem) from error


def _rdata() -> Any:
    """Return the parser, which is there where models are trained, and need not be where they are served."""
    try:
        import rdata  # noqa: PLC0415 - as said
    except ModuleNotFoundError as error:
        raise DatasetMissing("rdata, which reads R's tables,", [Path(sys.prefix)], "rdata", "PyPI package") from error
    return rdata


def _sequence(state: Any) -> Any:
    """Expand 1:n, which is how R keeps the names of rows; n is a number in the file, so it is bounded here."""
    if not 0 <= float(state.value[0]) <= ROWS_MAX:
        raise ValueError("a sequence that is too long")
    return _rdata().parser.DEFAULT_ALTREP_MAP[b"compact_intseq"](state)


def _frame(columns: Any, _attributes: Any) -> Any:
    return columns


def _factor(codes: Any, attributes: Any) -> Column:
    levels = tuple(str(level) for level in attributes["levels"])
    values = np.ma.filled(np.ma.asarray(codes).astype(np.float64), np.nan) - 1.0
    values[values == -1] = np.nan  # the code 0: how other writers than R put what is missing
    if ((values < 0) | (values >= len(levels))).any():
        raise ValueError("a code without a level")
    return Column(values, levels)


def _table(columns: Any, file: str) -> Table:
    if not isinstance(columns, dict) or not columns:
        raise DatasetMalformed(file, "is not a data frame")
    table = {str(name): _column(values, str(name), file) for name, values in columns.items()}
    if len({len(column.values) for column in table.values()}) != 1:
        raise DatasetMalformed(file, "has columns of different lengths")
    return table


def _column(values: Any, name: str, file: str) -> Column:
    if isinstance(values, Column):
        return values
    array = np.ma.asarray(values)
    if array.ndim == 1 and array.dtype.kind in "biuf":
        return Column(np.ma.filled(array.astype(np.float64), np.nan))
    if array.ndim == 1 and array.dtype.kind in "UO" and all(text is None or isinstance(text, str) for text in values):
        levels = tuple(sorted({str(text) for text in values if text is not None}))
        codes = [np.nan if text is None else float(levels.index(str(text))) for text in values]
        return Column(np.array(codes, np.float64), levels)
    raise DatasetMalformed(file, f"column {name} holds neither numbers nor categories")
