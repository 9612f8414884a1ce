"""When appends stop for want of room, and when they are taken again."""

import os

import pytest

from ops.audit.publish_thread import RESUME_POINTS, appends_stop, disk_used_percent


@pytest.mark.parametrize(
    ("stopped", "used", "stops"),
    [(False, 94, False), (False, 95, True), (True, 95, True), (True, 93, True), (True, 92, False), (True, 100, True)],
)
def test_appends_stop_at_the_limit_and_go_on_only_well_below_it(stopped, used, stops):
    assert RESUME_POINTS == 2
    assert appends_stop(stopped, used, 95) is stops


def test_a_reserve_that_was_given_up_counts_as_used(tmp_path):
    """Else giving it up would be what makes room, and there would be none for the closing entries of the next stop."""
    stat = os.statvfs(tmp_path)
    free = stat.f_bavail * stat.f_frsize
    assert disk_used_percent(tmp_path) < 100
    assert disk_used_percent(tmp_path, 2 * free) == 100
    assert disk_used_percent(tmp_path) <= disk_used_percent(tmp_path, free // 2) <= 100
