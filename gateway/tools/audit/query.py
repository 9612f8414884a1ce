"""`stockade audit query` for people: bring the index up to date, ask, print."""

from __future__ import annotations

import csv
import sys
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.tools.audit.verify import bar, chosen_epoch, fail, find, read_key
from gateway.tools.terminal import SafeConsole, print_json
from ops.audit.errors import AuditError, ProofError, QueryRefused
from ops.audit.export.parquet import update_index
from ops.audit.export.query import QueryLimits, ask
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.log.epochs import home_of
from ops.audit.reader.read import LogReader
from ops.audit.verify.report import OK, TAMPERED

if TYPE_CHECKING:
    from pathlib import Path

    from ops.audit.export.query import Answer
    from ops.audit.log.epochs import Epoch

CELL_WIDTH_MIN = 8  # of a table's column that can be read


def run(options: SimpleNamespace) -> int:
    """Ask, and print the answer; returns the exit code."""
    directory, keys = find(options.log, [options.vkey] if options.vkey else [])
    if not keys:
        return fail("say which key the log has: --vkey FILE")
    limits = QueryLimits(memory_mib_max=options.memory_mib, rows_max=options.rows, timeout_s=options.timeout)
    try:
        with bar(Console(stderr=True), "indexing") as advance:
            epoch = chosen_epoch(directory, parse_vkey(read_key(keys[0])), options.epoch)
            index = options.index or index_of(epoch)
            held = update_index(index, LogReader.open(epoch.directory, epoch.vkey), advance)
        answer = ask(index, options.sql, limits)
    except ProofError as problem:
        return fail(f"TAMPERED: {problem}", TAMPERED)
    except (AuditError, OSError) as problem:
        hint = "\n`DESCRIBE entries` shows what there is" if isinstance(problem, QueryRefused) else ""
        return fail(f"{problem}{hint}")
    told = f"{held.size:,} records of {held.origin}\nroot {held.root}"
    if options.json:
        rows = [dict(zip(answer.columns, map(plain, row), strict=True)) for row in answer.rows]
        facts = {"origin": held.origin, "size": held.size, "root": held.root, "cut": answer.cut, "rows": rows}
        print_json(facts)
    elif options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(map(plain, row) for row in answer.rows)
    else:
        show(answer, told)
    if answer.cut:
        Console(stderr=True).print(f"[yellow]cut:[/] there are more than {limits.rows_max:,} rows; see --rows")
    return OK


def index_of(epoch: Epoch) -> Path:
    """Return where the index of an epoch is unless it is said: beside the log."""
    home = home_of(epoch.directory)
    return home.with_name(f"{home.name}.index" if epoch.number == 1 else f"{home.name}.index-{epoch.number:04d}")


def show(answer: Answer, told: str) -> None:
    """Print a table, or each row downwards where so many columns would not fit, and what it was asked of."""
    console = SafeConsole(highlight=False)
    columns = [escape(column) for column in answer.columns]
    rows = [["" if cell is None else escape(str(plain(cell))) for cell in row] for row in answer.rows]
    if len(columns) * CELL_WIDTH_MIN <= console.width:
        table = Table(*columns)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        for row in rows:
            record = Table.grid(padding=(0, 2))
            for named in zip(columns, row, strict=True):
                record.add_row(*named)
            console.print(record, "")
    console.print(f"{len(rows):,} rows, of {escape(told)}", soft_wrap=True)


def plain(cell: Any) -> Any:
    """Return a cell as CSV and JSON take it; times as ISO 8601 with their zone."""
    if isinstance(cell, datetime):
        return cell.isoformat(timespec="microseconds") + ("" if cell.tzinfo else "Z")
    if isinstance(cell, bytes):
        return cell.hex()
    return cell
