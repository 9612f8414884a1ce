"""What gets past the recorder's door: the kinds that gateways write, and those that it writes itself."""

import pytest

from ops.audit.errors import EntryError
from ops.audit.log.entry import KINDS, canonical
from ops.audit.log.merkle import leaf_hashes
from ops.audit.log.shapes import Shapes
from ops.audit.log.tiles import frame_entry, join_pack
from ops.audit.store.appender import GATEWAY_KINDS, check_append, own_append
from tests.ops.audit.log.test_entry import KINDS as FIELDS
from tests.ops.audit.log.test_entry import OWN
from tests.ops.audit.samples import captured, request, small

WRITTEN = {"served", "refused", "failed", "erasure", "hold", "replay-result"} | {
    *("config", "policy", "model", "release", "isolation", "incident", "quarantine", "feedback", "evaluation", "admin"),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_gateway_writes_what_happened_to_calls_and_what_is_in_force_and_nothing_else(kind):
    """Neither heartbeats nor what explains a silence."""
    data = canonical({**OWN, **FIELDS[kind], "kind": kind})
    records = frame_entry(small()) + frame_entry(data)  # also behind one that is in order
    if kind in WRITTEN:
        assert check_append(records, b"", Shapes()).kinds == ["refused", kind]
    else:
        with pytest.raises(EntryError, match="gateways do not write"):
            check_append(records, b"", Shapes())
    assert own_append([data]).kinds == [kind]


def test_an_entry_is_taken_for_what_it_is_also_when_the_like_of_it_came_before():
    shapes = Shapes()
    for number in range(3):
        entries = [canonical(request(number)), small(number), captured(number, b"seen")]
        append = check_append(b"".join(map(frame_entry, entries)), join_pack([b"seen"]), shapes)
        assert append.kinds == ["served", "refused", "served"]
        assert append.leaves == leaf_hashes(entries)
        assert append.blobs == [(2, b"seen")]
    with pytest.raises(EntryError):
        check_append(frame_entry(small(4).replace(b'"status":5', b'"status":05')), b"", shapes)


def test_a_new_kind_is_nobodys_until_somebody_says_whose():
    assert GATEWAY_KINDS < KINDS
