"""What gets past the recorder's door: the kinds that gateways write, and those that it writes itself."""

import pytest

from ops.audit.appender import GATEWAY_KINDS, check_append, own_append
from ops.audit.entry import KINDS, canonical
from ops.audit.errors import EntryError
from ops.audit.tiles import frame_entry
from tests.ops.audit.samples import small
from tests.ops.audit.test_entry import KINDS as FIELDS
from tests.ops.audit.test_entry import OWN

WRITTEN = {"served", "refused", "failed", "erasure", "hold", "replay-result"} | {
    *("config", "policy", "model", "release", "isolation", "incident", "quarantine", "feedback", "evaluation", "admin"),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_gateway_writes_what_happened_to_calls_and_what_is_in_force_and_nothing_else(kind):
    """Neither heartbeats nor what explains a silence."""
    data = canonical({**OWN, **FIELDS[kind], "kind": kind})
    records = frame_entry(small()) + frame_entry(data)  # also behind one that is in order
    if kind in WRITTEN:
        assert check_append(records, b"").kinds == ["refused", kind]
    else:
        with pytest.raises(EntryError, match="gateways do not write"):
            check_append(records, b"")
    assert own_append([data]).kinds == [kind]


def test_a_new_kind_is_nobodys_until_somebody_says_whose():
    assert GATEWAY_KINDS < KINDS
