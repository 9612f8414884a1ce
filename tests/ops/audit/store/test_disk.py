"""When appends stop for want of room, and when they are taken again."""

import os
import subprocess

import pytest

from ops.audit.store.publish_thread import RESUME_POINTS, appends_stop, disk_used_percent, used_percent


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


def statvfs(blocks: int, free: int, available: int) -> os.statvfs_result:
    return os.statvfs_result((4096, 1024, blocks, free, available, 0, 0, 0, 0, 255))


@pytest.mark.parametrize(
    ("blocks", "free", "available", "held_back", "percent"),
    [
        (1000, 1000, 1000, 0, 0),
        (1000, 500, 500, 0, 50),
        (1000, 600, 400, 0, 50),  # 200 blocks are kept for others: neither used nor ours
        (1000, 600, 100, 0, 80),
        (1000, 500, 499, 0, 51),  # rounded up
        (1000, 100, 0, 0, 100),
        (1000, 600, 400, 100 * 1024, 63),
        (1000, 600, 400, 400 * 1024, 100),
        (1000, 600, 400, 4000 * 1024, 100),
        (0, 0, 0, 0, 0),  # some filesystems say nothing about themselves
    ],
)
def test_what_is_kept_for_others_is_neither_used_nor_free(blocks, free, available, held_back, percent):
    assert used_percent(statvfs(blocks, free, available), held_back) == percent


def test_how_full_the_disk_is_says_df_too(tmp_path):
    for _ in range(100):  # somebody may write meanwhile
        before = disk_used_percent(tmp_path)
        said = subprocess.run(["df", "--output=pcent", tmp_path], capture_output=True, text=True, check=True).stdout
        if before == disk_used_percent(tmp_path):
            break
    assert int(said.split()[1].rstrip("%")) == before
