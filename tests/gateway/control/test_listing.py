"""How much of the log one reply of the admin port holds."""

from __future__ import annotations

import pytest

from gateway.control.audit_methods import fitting


@pytest.mark.parametrize(
    ("sizes", "bytes_max", "listed"),
    [((), 10, 0), ((4, 4), 8, 2), ((4, 5), 8, 1), ((9, 1), 8, 1), ((1,) * 100, 8, 8)],
    ids=["none", "all of it", "one past it", "one that is too large alone", "many"],
)
def test_a_reply_holds_what_fits_and_one_entry_at_least(sizes, bytes_max, listed):
    entries = [bytes([number]) * size for number, size in enumerate(sizes)]
    assert fitting(entries, bytes_max) == entries[:listed]
