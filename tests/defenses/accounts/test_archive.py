"""The archive: its owner finds evidence again, a stranger never, and floods of the innocent push nothing out."""

from __future__ import annotations

import numpy as np
import pytest

from defenses.accounts import archive
from defenses.accounts.archive import Archive, Kept

KEY = b"k" * 16


def test_evidence_is_found_once_by_its_owner_alone():
    kept = Archive(KEY)
    kept.put("mallory", 5.5, 70)
    assert kept.take("alice") is None
    assert kept.take("mallory") == Kept(5.5, 70)
    assert kept.take("mallory") is None


def test_a_later_word_replaces_the_earlier():
    kept = Archive(KEY)
    kept.put("mallory", 5.5, 70)
    kept.put("mallory", 9.0, 90)
    kept.put("mallory", 2.0, 95)  # less by now: it has mended its ways
    assert kept.take("mallory") == Kept(2.0, 95)
    assert kept.take("mallory") is None


@pytest.mark.parametrize("log_evidence", [0.0, -3.0, -np.inf])
def test_what_is_no_evidence_takes_no_place(log_evidence):
    kept = Archive(KEY)
    kept.put("alice", log_evidence, 10)
    assert not kept.tags.any()


def test_in_a_full_set_the_least_gives_way_and_only_to_more(monkeypatch):
    monkeypatch.setattr(archive, "SETS", 1)
    kept = Archive(KEY)
    for number in range(archive.WAYS):
        kept.put(f"a{number}", 2.0 + number, 10)
    kept.put("innocent", 1.0, 10)
    assert kept.take("innocent") is None
    kept.put("worse", 3.5, 10)
    assert kept.take("a0") is None
    assert kept.take("worse") == Kept(3.5, 10)
    assert kept.take("a7") == Kept(9.0, 10)


def test_the_place_follows_from_the_key():
    one, other = Archive(KEY), Archive(b"l" * 16)
    one.put("mallory", 5.5, 70)
    other.put("mallory", 5.5, 70)
    assert not np.array_equal(one.tags, other.tags)
    assert "kkkk" not in repr(one)


def test_it_stays_as_large_as_it_is():
    kept = Archive(KEY)
    before = kept.nbytes
    for number in range(2_000):
        kept.put(f"account {number}", 1.0 + number, 1)
    assert kept.nbytes == before <= 6 * 1024 * 1024
