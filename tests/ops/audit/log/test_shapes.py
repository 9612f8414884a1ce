"""What has the shape of an entry that was checked would be accepted by `check` as well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import EntryError
from ops.audit.log.entry import ENTRY_BYTES_MAX, canonical, check
from ops.audit.log.schemas.requests import INTEGER_MAX
from ops.audit.log.shapes import SHAPES_MAX, Shapes
from tests.ops.audit.samples import captured, number_id, request, sized, small

ACCOUNT = {"evidence_milli": -7, "mode": "shadow", "repeats": 0, "step": "flag"}
LIMIT = {"clock_ns": "12345", "decision": "admit", "rule": "default", "tokens": -10}
TEMPLATES = [
    small(1),
    canonical(request(2)),
    canonical(request(3, account=ACCOUNT, limits=[LIMIT, LIMIT], pinned=True, output={"abstained": 0, "moved": 1})),
    canonical(request(4, timings_us={"id": 3, "tokens": 5, "v": 1, "reason": 4})),
    canonical(request(6, timings_us={":5,x": 1, ":6,x": 2, ":7," + "x" * 61: 3})),
    canonical(request(5, budget={"cost_milli": 1, "debt_millidays": 2, "mode": "enforce", "step": "full"})),
]
INSERTED = [b"", b"0", b"7", b"-", b"1" * 16, b'"', b"\\", b"\\n", b"\n", b" ", b"\x7f", "é".encode(), b"x" * 600, b"z"]


def shapes_of(*templates: bytes) -> Shapes:
    shapes = Shapes()
    for each in templates:
        shapes.learn(each, check(each))
    return shapes


def kind_of(data: bytes) -> str | None:
    try:
        return check(data).kind
    except EntryError:
        return None


ALL = shapes_of(*TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_byte_changed_in_each_way_is_known_only_where_it_is_accepted(template):
    known = 0
    for at in range(len(template)):
        for new in INSERTED:
            for end in (at, at + 1):
                changed = template[:at] + new + template[end:]
                if kind := ALL.know(changed):
                    known += 1
                    assert kind_of(changed) == kind, changed
    assert known > len(template)


printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64)
names = st.dictionaries(printable, st.integers(0, 99), min_size=1, max_size=3)


@given(names.map(lambda timings: canonical(request(5, timings_us=timings))), st.integers(0, 999), st.integers(0, 250))
def test_names_of_timings_stand_as_they_are(template, number, back):
    shapes = shapes_of(template)
    changed = template[: -1 - back] + b"%d" % number + template[len(template) - back :]
    if kind := shapes.know(changed):
        assert kind_of(changed) == kind


@given(st.sampled_from(TEMPLATES), st.data())
def test_what_is_known_is_accepted_however_it_was_changed(template, data):
    pieces = (
        st.binary(max_size=3) | st.sampled_from(INSERTED) | st.integers(-INTEGER_MAX, INTEGER_MAX).map(b"%d".__mod__)
    )
    at = data.draw(st.integers(0, len(template)))
    changed = template[:at] + data.draw(pieces) + template[at + data.draw(st.integers(0, 20)) :]
    if kind := ALL.know(changed):
        assert kind_of(changed) == kind


def test_other_values_of_the_same_fields_are_known():
    template = request(6, limits=[LIMIT])
    other = request(
        7,
        auth={**template["auth"], "tenant": "another one", "principal": "cd" * 16},
        id=number_id(9),
        limits=[{**LIMIT, "clock_ns": "9", "tokens": 10**15 - 1}],
        peer="ipv6:[::1]:9",
        screens=[{**template["screens"][0], "p_micro": 0, "score_micro": 999}],
        time_ns="1",
        timings_us={"admit": 0, "auth": 9, "total": 123_456},
    )
    shapes = shapes_of(canonical(template))
    assert shapes.know(canonical(other))
    for field, value in (("decision", "refuse"), ("kind", "failed"), ("batch", {**template["batch"], "id": 10**15})):
        assert not shapes.know(canonical({**other, field: value}))


def test_a_count_that_has_the_name_of_a_signed_field_keeps_no_sign():
    template = canonical(request(8, timings_us={"tokens": 5}))
    shapes = shapes_of(template)
    assert shapes.know(template.replace(b'{"tokens":5}', b'{"tokens":6}'))
    assert not shapes.know(template.replace(b'{"tokens":5}', b'{"tokens":-6}'))


@pytest.mark.parametrize("data", [small(reason="é"), small(reason='a "b"'), captured(1, b"payload")])
def test_some_make_no_shape(data):
    assert not shapes_of(data).know(data)


def test_an_entry_that_is_too_long_is_not_known():
    longest = sized(ENTRY_BYTES_MAX)
    shapes = shapes_of(longest)
    assert shapes.know(longest)
    longer = longest.replace(b'"peer":"', b'"peer":"x')
    assert len(longer) == ENTRY_BYTES_MAX + 1
    assert not shapes.know(longer)


def test_the_unknown_of_a_bundle_are_those_that_are_not_known():
    longest = sized(ENTRY_BYTES_MAX)
    longer = longest.replace(b'"peer":"', b'"peer":"x')
    entries = [longest, longer, small(1), small(2), b"", small(3) + b"0", small(4), longest, longer]
    assert [*shapes_of(longest).unknown(entries)] == [1, 2, 3, 4, 5, 6, 8]
    assert [*shapes_of(longest, small(1)).unknown(entries)] == [1, 4, 5, 8]
    assert [*Shapes().unknown(entries)] == [*range(9)]


def test_what_is_learned_from_one_counts_for_those_behind_it():
    shapes, unknown = Shapes(), []
    for place in shapes.unknown([small(1), small(2), small(3)]):
        unknown.append(place)
        shapes.learn(small(1), check(small(1)))
    assert unknown == [0]


def test_there_are_no_more_of_them_than_their_limit():
    entries = [canonical(request(9, timings_us={f"part{number}": 1})) for number in range(SHAPES_MAX + 1)]
    shapes = shapes_of(*entries)
    assert [bool(shapes.know(each)) for each in entries] == [True] * SHAPES_MAX + [False]


def test_entries_of_one_shape_are_known_whichever_of_them_was_learned():
    one, other = canonical(request(1)), canonical(request(2, auth={**request()["auth"], "tenant": "another"}))
    for learned in (one, other):
        shapes = shapes_of(learned)
        assert shapes.know(one) == shapes.know(other) == "served"
