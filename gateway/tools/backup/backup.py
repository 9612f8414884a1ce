"""`stockade backup` and `stockade restore` for people. The work is `ops.backup`'s, the choice `backup_plan`'s."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.config.document import FileRejected
from gateway.config.load import load_config
from gateway.tools.audit.log_store import source_at
from gateway.tools.backup.plan import OUTSIDE, plan_of
from gateway.tools.terminal import EX_NO, err, fail, out, print_json
from ops.audit.errors import AuditError, SuccessionRefused
from ops.audit.log.checkpoint import open_checkpoint, parse_vkey
from ops.audit.log.epochs import number_of_place
from ops.backup.create import create_backup
from ops.backup.errors import BackupDamaged, BackupError, RepositoryRefused
from ops.backup.reopen import catch_up, reopen
from ops.backup.repository import Repository, read_key
from ops.backup.restore import drill, restore_backup
from ops.backup.sealing import KEY_BYTES
from ops.backup.verify import Verified, verify_backup

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from ops.backup.reopen import Reopened
    from ops.backup.restore import Restored

SHOWN_MAX = 20


def guarded(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Turn what goes wrong into a sentence and an exit code."""

    def call(options: argparse.Namespace) -> int:
        try:
            return run(options)
        except BackupDamaged as problem:
            for line in problem.problems[1:SHOWN_MAX]:
                fail(line)
            return fail(f"damaged: {problem}", EX_NO)
        except SuccessionRefused as problem:
            return fail(problem, EX_NO)
        except (BackupError, FileRejected, AuditError, OSError) as problem:
            return fail(problem)

    return call


@guarded
def make_key(options: argparse.Namespace) -> int:
    """Write 32 random bytes to a new file."""
    descriptor = os.open(options.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(KEY_BYTES))
        os.fsync(file.fileno())
    say(options, {"file": str(options.out)}, f"made {escape(str(options.out))}: without it no backup can be read")
    return 0


@guarded
def create(options: argparse.Namespace) -> int:
    """Back up a gateway."""
    file = options.file.absolute()
    plan = plan_of(file, load_config(file), with_keys=options.with_keys)
    repository = Repository.create(options.repository, read_key(options.key))
    with moving("backing up") as advance:
        done = create_backup(
            repository,
            plan,
            now_ns=time.time_ns(),
            random_bytes=os.urandom,
            build=version("stockade"),
            whole=options.whole,
            progress=advance,
        )
    say(
        options,
        asdict(done),
        f"[bold green]made[/] {done.name}\n"
        f"{done.files:,} files, {decimal(done.bytes)}; new: {done.chunks_written:,} chunks, "
        f"{decimal(done.bytes_written)}; the log has {done.log_size:,} entries",
    )
    if not options.json:
        for line in done.left_out[:SHOWN_MAX]:
            err.print(f"left out: {escape(line)}")
        if not options.with_keys:
            err.print("no private keys are in it: keep those of the gateway elsewhere, or use --with-keys")
    return 0


@guarded
def listed(options: argparse.Namespace) -> int:
    """Show the backups of a repository."""
    repository = Repository.open(options.repository, read_key(options.key))
    rows: list[tuple[str, int, int, bool]] = []
    for name in repository.names():
        manifest = repository.manifest(name)
        log = manifest.log
        size = open_checkpoint(log.note.encode(), [parse_vkey(log.vkey)]).size if log is not None else 0
        keys = (repository.path / "keys" / manifest.id).exists() and time.time_ns() < manifest.keys_until_ns
        rows.append((name, manifest.bytes_in_all, size, keys))
    if options.json:
        names = ("name", "bytes", "log_size", "key_database")
        print_json([dict(zip(names, row, strict=True)) for row in rows])
        return 0
    table = Table("backup", "size", "entries", "keys", box=None, pad_edge=False)  # names fit 80 columns, to be copied
    for name, size, entries, keys in rows:
        table.add_row(name, decimal(size), f"{entries:,}", "yes" if keys else "")
    out.print(table)
    return 0


@guarded
def verify(options: argparse.Namespace) -> int:
    """Read backups back."""
    repository = Repository.open(options.repository, read_key(options.key))
    names = repository.names() if options.all else [chosen(repository, options.backup)]
    found: list[Verified] = []
    for name in names:
        with counting("verifying") as advance:
            try:
                found.append(verify_backup(repository, name, now_ns=time.time_ns(), progress=advance))
            except BackupDamaged as problem:
                found.append(Verified(name, problems=list(problem.problems)))
    code = EX_NO if any(each.problems for each in found) else 0
    if options.json:
        print_json([asdict(each) for each in found])
        return code
    for each in found:
        for line in each.problems[:SHOWN_MAX]:
            fail(f"{each.name}: {line}")
        if not each.problems:
            gone = "; its key database is past its seven days" if each.keys_expired else ""
            amount = f"{each.files:,} files, {decimal(each.bytes)}, {each.log_size:,} entries{gone}"
            out.print(f"[bold green]whole[/]: {each.name}\n{amount}")
    return code


@guarded
def drill_one(options: argparse.Namespace) -> int:
    """Restore a backup beside the gateway, prove it and remove it."""
    repository = Repository.open(options.repository, read_key(options.key))
    name = chosen(repository, options.backup)
    if options.beside.exists():
        raise FileExistsError(17, "it exists; name a directory that does not", str(options.beside))
    with counting("restoring") as advance:
        found = drill(repository, name, options.beside, now_ns=time.time_ns(), clock=time.monotonic, progress=advance)
    if options.json:
        print_json(asdict(found))
        return EX_NO if found.problems else 0
    for problem in found.problems[:SHOWN_MAX]:
        fail(problem)
    table = Table("proved", "", box=None, show_header=False)
    table.add_row("files equal to the digest", f"{found.files:,}, {decimal(found.bytes)}")
    table.add_row("databases whole", f"{found.databases:,}")
    table.add_row("log verified", f"{found.log_size:,} entries, root {found.log_root[:16]}...")
    table.add_row("restored in, checked in", f"{found.restore_s:.1f} s, {found.check_s:.1f} s")
    if found.keys_expired:
        table.add_row("key database", "past its seven days: not restored")
    out.print(f"[bold {'red' if found.problems else 'green'}]{'FAILED' if found.problems else 'passed'}[/]: {name}")
    out.print(table)
    return EX_NO if found.problems else 0


@guarded
def prune(options: argparse.Namespace) -> int:
    """Remove old backups."""
    done = Repository.open(options.repository, read_key(options.key)).prune(options.keep)
    freed = f"{len(done.backups):,} backups and {done.chunks:,} chunks, {decimal(done.bytes)}"
    say(options, asdict(done), f"removed {freed}")
    return 0


@guarded
def restore(options: argparse.Namespace) -> int:
    """Put a backup into a new directory, and say whether its log may go on."""
    repository = Repository.open(options.repository, read_key(options.key))
    name = chosen(repository, options.backup)
    log = repository.manifest(name).log
    epoch = 1 if log is None else number_of_place(Path(log.directory))
    sources = [source_at(place, options, epoch) for place in options.log_from]
    following = [source_at(place, options, epoch + 1) for place in options.log_from]
    with counting("restoring") as advance:
        done = restore_backup(repository, name, options.out, now_ns=time.time_ns(), progress=advance)
    opened: Reopened | None = None
    refusal: SuccessionRefused | None = None
    if log is not None:
        notes = [(str(file), file.read_bytes()) for file in options.seen]
        notes += [(str(file), file.read_bytes()) for file in options.out.rglob("cosigned") if file.is_file()]
        try:
            opened = reopen(options.out, log, sources=sources, following=following, notes=notes, wanted=options.go_on)
        except SuccessionRefused as problem:
            refusal = problem
        catch_up(done)
    tell_restored(options, name, done, opened)
    return 0 if refusal is None else fail(refusal, EX_NO)


def tell_restored(options: argparse.Namespace, name: str, done: Restored, opened: Reopened | None) -> None:
    """Say what was put where, and what is left to do."""
    facts: dict[str, Any] = {
        "backup": name,
        "directory": str(options.out),
        "files": len(done.files) - len(done.keys_expired),
        "kept": done.kept,
        "key_database_expired": bool(done.keys_expired),
        "with_keys": done.manifest.with_keys,
        "log": asdict(opened) if opened is not None else None,
    }
    lines = [f"[bold green]restored[/] {name} to {escape(str(options.out))}: {facts['files']:,} files"]
    if any(each.path.startswith(f"{OUTSIDE}/") for each in done.files):
        lines.append(f"what lay outside the directory of stockade.yaml is in {OUTSIDE}/, by its whole path")
    if done.keys_expired:
        lines.append("the key database was past its seven days: payloads that were captured before stay sealed")
    if not done.manifest.with_keys:
        lines.append("private keys are not in it: put them back, mode 0600")
    if opened is not None and opened.goes_on:
        lines.append(f"the log of {escape(opened.origin)} goes on at {opened.size:,} entries")
    elif opened is not None:
        lines.append(
            f"the log of {escape(opened.origin)} is sealed at {opened.size:,} entries ({opened.lost_end:,} are known); "
            "docs/how-to/backup.md says how to go on"
        )
    say(options, facts, "\n".join(lines))


def chosen(repository: Repository, wanted: str) -> str:
    """The name of the backup that is meant. Raises RepositoryRefused: none, or several."""
    names = repository.names()
    fitting = [name for name in names if name.startswith(wanted)] if wanted else names[-1:]
    if len(fitting) != 1:
        which = "no backup" if not fitting else f"{len(fitting)} backups"
        raise RepositoryRefused(f"{repository.path} holds {which} {wanted!r}; `stockade backup list` shows them")
    return fitting[0]


def say(options: argparse.Namespace, facts: dict[str, Any], text: str) -> None:
    """Print the result, for machines or for people."""
    if options.json:
        print_json(facts)
    else:
        out.print(text)


@contextmanager
def moving(doing: str) -> Iterator[Callable[[str, int], None]]:
    """Show how much has been read, on a terminal; gives the callback that counts it."""
    columns = (TextColumn(doing), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(doing, total=None)
        yield lambda _, size: progress.advance(task, size)


@contextmanager
def counting(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal; gives the callback that moves it."""
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(doing, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
