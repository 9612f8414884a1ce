"""One epoch after the other, by the part of the recorder that opens and closes them."""

import pytest

from ops.audit.log.epochs import NUMBER_MAX, epochs_of, place_of
from tests.faults.recorder_process import KEY
from tests.ops.audit.samples import small
from tests.ops.audit.verify.test_epochs import Series


@pytest.fixture
def series(tmp_path):
    return Series(tmp_path / "home")


def test_an_epoch_is_due_when_it_is_full_and_the_next_one_has_just_begun(series):
    writing = series.writing
    assert (writing.number, writing.due, writing.just_begun) == (1, False, False)
    series.append(*(small(number) for number in range(4)))
    assert writing.due
    series.roll()
    assert (writing.number, writing.due, writing.just_begun) == (2, False, True)
    series.append(small(5))
    assert not writing.just_begun
    series.close()


def test_the_last_epoch_that_has_a_name_is_never_closed(series):
    series.append(*(small(number) for number in range(4)))
    series.writing.number = NUMBER_MAX
    assert not series.writing.due
    series.close()


def test_nothing_of_an_earlier_epoch_counts_in_a_segment_that_it_filled(series):
    """A segment is used again, by the next epoch too: what it held before must not look like groups of its new life."""
    home = series.directory.parent
    for start in range(2):  # the third one retires the segment of the first
        series.append(small(start))
        series.append(small(start + 10))
        series.close()
        series = Series(home)
    series.roll()
    series.close()
    again = Series(home)
    assert again.writing.number == 2
    again.close()


def test_what_fails_behind_the_beginning_of_an_epoch_leaves_one_that_can_be_given_up(series):
    """As the recorder does with whatever stops it."""

    def fail(point: str) -> None:
        if point == "cleared":
            raise OSError("Input/output error")

    series.append(small(1))
    series.writing.reached = fail
    with pytest.raises(OSError, match="Input/output error"):
        series.roll()
    series.writing.publishing.abandon()
    series.writing.close()
    assert not (place_of(series.settings.state_directory, 1) / "segments").exists()
    again = Series(series.directory.parent)
    assert again.writing.number == 2
    again.close()
    assert [each.number for each in epochs_of(series.directory, KEY.verifier)] == [1, 2]
