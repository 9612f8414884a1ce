"""What is old is dropped by the epoch, and what was proved of it stays proved."""

import shutil
from pathlib import Path

import pytest

from ops.audit.copies.restore import restore_log
from ops.audit.copies.sources import DirectorySource
from ops.audit.errors import ReadError, RestoreIncomplete
from ops.audit.log.entry import canonical
from ops.audit.log.epochs import place_of
from ops.audit.log.merkle import verify_consistency
from ops.audit.log.tlog_proof import parse_proof
from ops.audit.log.trust_policy import TrustedLog, TrustPolicy
from ops.audit.reader.read import LogReader
from ops.audit.store.retention import Kept, drop, is_due, survey, sweep, tenants_in
from ops.audit.verify.epochs import verify_epochs
from tests.faults.recorder_process import KEY
from tests.ops.audit.open_log import VKEY
from tests.ops.audit.samples import request, small
from tests.ops.audit.verify.test_epochs import Series, series_of

DAY_NS = 86_400 * 1_000_000_000
TRUSTED = TrustPolicy(logs=[TrustedLog(KEY.verifier)])


@pytest.fixture
def log(tmp_path):
    return series_of(tmp_path / "home")


def said_of(kept: Kept, outcome: str = "done") -> bytes:
    """The entry that says that an epoch is dropped."""
    detail = {"epoch": str(kept.epoch.number), "root": kept.root.hex()}
    what = {"action": "epoch-dropped", "administrator": "anna", "detail": detail, "outcome": outcome}
    return canonical({"build": "t", "id": "0" * 32, "kind": "admin", "time_ns": "1", "v": 1, **what})


def dropped_of(home: Path, outcome: str = "done") -> Series:
    """A log whose first epoch is dropped, which the second says with this outcome."""
    series = Series(home)
    series.append(*(small(number) for number in range(300)))
    series.roll()
    series.append(said_of(survey(series.directory, KEY.verifier)[0], outcome))
    series.close()
    drop(survey(series.directory, KEY.verifier)[0])
    return series


def test_only_closed_epochs_of_their_age_are_due(log):
    first, second, third = survey(log, KEY.verifier)
    assert [first.epoch.number, first.closed, third.closed] == [1, True, False]
    end = first.last_ns  # on 15 January 2027
    assert not is_due(first, end + 40 * DAY_NS, 1), "the 24th of the month after"
    assert is_due(first, end + 46 * DAY_NS, 1)
    assert not is_due(first, end + 46 * DAY_NS, 2)
    assert is_due(second, end + 46 * DAY_NS, 1)
    assert not is_due(third, end + 4_000 * DAY_NS, 1)
    with pytest.raises(ReadError, match="is not closed"):
        drop(third)


def test_what_was_proved_of_a_dropped_epoch_stays_proved(tmp_path):
    series = Series(tmp_path / "home")
    series.append(*(small(number) for number in range(300)))
    series.writing.publishing.hurry()
    while series.writing.publishing.edge.backlog:
        pass
    early = LogReader.open(series.directory, KEY.verifier)
    note = (series.directory / "checkpoint").read_bytes()
    receipt, entry = early.receipt(77, note).text(), early.entries(77, 1)[0]
    series.append(small(301))
    series.roll()
    series.append(said_of(survey(series.directory, KEY.verifier)[0]))
    series.close()
    (kept, _) = survey(series.directory, KEY.verifier)
    for _ in range(2):
        drop(kept)
        sweep(kept)
    (left, _) = survey(series.directory, KEY.verifier)
    assert (left.dropped, left.root, left.first_ns) == (True, kept.root, 0)
    assert sorted(path.name for path in series.directory.iterdir()) == ["checkpoint", "epochs", "tile"]
    assert parse_proof(receipt).verify(TRUSTED, entry).checkpoint == early.checkpoint
    now = LogReader.open(series.directory, KEY.verifier)
    proof = now.consistency_proof(early.checkpoint.size)
    verify_consistency(early.checkpoint.size, now.checkpoint.size, proof, early.checkpoint.root, now.checkpoint.root)
    assert now.inclusion_proof(77), "and whoever kept the entry can have it proved anew"
    reports = verify_epochs(series.directory, [VKEY], processes=0, remembered=note)
    assert [each.exit_code for each in reports.values()] == [0, 0]


def test_an_epoch_that_was_exchanged_after_it_was_dropped_is_flagged(tmp_path):
    """By the entry that says so: the genesis entry, which names what came before, may be dropped as well."""
    log, other = dropped_of(tmp_path / "home").directory, dropped_of(tmp_path / "other").directory
    drop(survey(series_of(tmp_path / "third"), KEY.verifier)[0])
    for name in ("checkpoint", "tile"):
        source, at = tmp_path / "third/log" / name, log / name
        shutil.rmtree(at) if at.is_dir() else at.unlink()
        shutil.copytree(source, at) if source.is_dir() else shutil.copy(source, at)
    found = [each.what for each in verify_epochs(log, [VKEY], processes=0)[1].findings]
    assert any("was dropped with the root" in each for each in found), found
    assert [each.exit_code for each in verify_epochs(other, [VKEY], processes=0).values()] == [0, 0]


def test_an_epoch_that_was_not_dropped_in_the_end_is_incomplete_without_its_entries(tmp_path):
    log = dropped_of(tmp_path / "home", outcome="failed").directory
    assert [each.exit_code for each in verify_epochs(log, [VKEY], processes=0).values()] == [2, 0]


def test_of_a_dropped_epoch_the_hashes_are_restored(tmp_path):
    log, out = dropped_of(tmp_path / "home").directory, tmp_path / "out"
    sources = [DirectorySource(log)]
    with pytest.raises(RestoreIncomplete):
        restore_log(sources, out, KEY.verifier)
    done = restore_log(sources, out, KEY.verifier, dropped=True)
    assert (done.newer, done.payloads_missing) == ((), 0)
    restore_log([DirectorySource(place_of(log, 2))], place_of(out, 2), survey(log, KEY.verifier)[1].epoch.vkey)
    assert [each.exit_code for each in verify_epochs(out, [VKEY], processes=0).values()] == [0, 0]


def test_where_a_source_still_has_the_entries_of_a_dropped_epoch_all_of_it_is_restored(tmp_path):
    whole, out = series_of(tmp_path / "home"), tmp_path / "out"
    shutil.copytree(whole, tmp_path / "left")
    drop(survey(tmp_path / "left", KEY.verifier)[0])
    restore_log([DirectorySource(tmp_path / "left"), DirectorySource(whole)], out, KEY.verifier, dropped=True)
    assert not survey(out, KEY.verifier)[0].dropped


def test_a_drop_that_was_cut_short_is_ended_by_the_next(log):
    (kept, *_) = survey(log, KEY.verifier)
    (log / "tile/entries").rename(log / "tile/entries.dropped")
    drop(kept)
    sweep(kept)
    assert not (log / "tile/entries.dropped").exists()


def test_an_epoch_that_was_restored_over_a_drop_that_was_cut_short_is_dropped(log):
    (kept, *_) = survey(log, KEY.verifier)
    shutil.copytree(log / "tile/entries", log / "tile/entries.dropped")
    drop(kept)
    sweep(kept)
    assert [path.name for path in (log / "tile").iterdir()] == ["0"]


def test_tenants_are_found_by_their_entries(tmp_path):
    series = Series(tmp_path / "home")
    series.append(small(1, auth=request()["auth"]))
    series.roll()
    series.close()
    log = series.directory
    (kept, _) = survey(log, KEY.verifier)
    assert tenants_in(kept, {"store-7", "store", "nobody"}) == {"store-7"}
    shutil.rmtree(place_of(log, 1) / "tile/entries")
    with pytest.raises(ReadError, match="dropped"):
        tenants_in(kept, {"store-7"})
