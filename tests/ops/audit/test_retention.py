"""What is old is dropped by the epoch, and what was proved of it stays proved."""

import shutil

import pytest

from ops.audit.entry import canonical
from ops.audit.epochs import place_of
from ops.audit.errors import ReadError
from ops.audit.merkle import verify_consistency
from ops.audit.read import LogReader
from ops.audit.receipt import make_proof
from ops.audit.retention import drop, is_due, survey, tenants_in
from ops.audit.tlog_proof import parse_proof
from ops.audit.trust_policy import TrustedLog, TrustPolicy
from ops.audit.verify_epochs import verify_epochs
from tests.faults.recorder_process import KEY
from tests.ops.audit.open_log import VKEY
from tests.ops.audit.samples import request, small
from tests.ops.audit.test_verify_epochs import Series, series_of

DAY_NS = 86_400 * 1_000_000_000
TRUSTED = TrustPolicy(logs=[TrustedLog(KEY.verifier)])


@pytest.fixture
def log(tmp_path):
    return series_of(tmp_path / "home")


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
    receipt, entry = make_proof(early, 77, note).text(), early.entries(77, 1)[0]
    series.append(small(301))
    series.roll()
    detail = {"detail": {"epoch": "1"}, "action": "epoch-dropped", "administrator": "anna", "outcome": "done"}
    series.append(canonical({"build": "t", "id": "0" * 32, "kind": "admin", "time_ns": "1", "v": 1, **detail}))
    series.close()
    (kept, _) = survey(series.directory, KEY.verifier)
    drop(kept)
    drop(kept)
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


def test_a_drop_that_was_cut_short_is_ended_by_the_next(log):
    (kept, *_) = survey(log, KEY.verifier)
    (log / "tile/entries").rename(log / "tile/entries.dropped")
    drop(kept)
    assert not (log / "tile/entries.dropped").exists()


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
