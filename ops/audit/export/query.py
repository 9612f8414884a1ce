"""SQL over an index of the log (`ops.audit.export.parquet`), answered by DuckDB.

The question may be anybody's, so DuckDB is given one table, `entries`, and nothing else: no files, no network, no
extensions, no settings to change. It may take this much memory and time and give this many rows. One statement that
reads; whatever it could write would be gone with the connection.

The only module that imports duckdb (extra `audit`), and that when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Timer
from typing import TYPE_CHECKING, Any

from ops.audit.errors import QueryRefused, QueryUnavailable
from ops.audit.export.parquet import index_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TABLE = "entries"
SQL_CHARACTERS_MAX = 65_536


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one question may take."""

    memory_mib_max: int = 1024
    rows_max: int = 10_000
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Column names and rows; `cut` when there were more rows than the limit."""

    columns: Sequence[str]
    rows: Sequence[tuple[Any, ...]]
    cut: bool


def ask(directory: Path, sql: str, limits: QueryLimits) -> Answer:
    """Return the answer to one SELECT over the index in `directory`.

    Raises:
        QueryUnavailable: duckdb or pyarrow is not installed.
        QueryRefused: it is not one statement that reads, is wrong, or takes too much.
    """
    try:
        import duckdb
        import pyarrow.dataset as ds
    except ModuleNotFoundError as problem:
        raise QueryUnavailable(str(problem.name)) from problem
    if len(sql) > SQL_CHARACTERS_MAX:
        raise QueryRefused(f"the question has more than {SQL_CHARACTERS_MAX} characters")
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
        "memory_limit": f"{limits.memory_mib_max}MiB",
        "temp_directory": "",
    }
    connection = duckdb.connect(":memory:", config=settings)
    clock = Timer(limits.timeout_s, connection.interrupt)
    try:
        connection.execute("SET lock_configuration = true")
        connection.register(TABLE, ds.dataset([str(file) for file in index_files(directory)], format="parquet"))
        statements = connection.extract_statements(sql)
        readers = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
        if len(statements) != 1 or statements[0].type not in readers:
            raise QueryRefused("ask one SELECT")
        clock.start()
        cursor = connection.execute(statements[0])
        columns = [str(column[0]) for column in cursor.description or ()]
        rows = cursor.fetchmany(limits.rows_max + 1)
    except duckdb.InterruptException as problem:
        raise QueryRefused(f"it took more than {limits.timeout_s:g} s") from problem
    except duckdb.Error as problem:
        raise QueryRefused(str(problem)) from problem
    finally:
        clock.cancel()
        connection.close()
    return Answer(columns, rows[: limits.rows_max], len(rows) > limits.rows_max)
