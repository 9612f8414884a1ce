"""Units: what is read, what is refused, and that printing is the inverse of reading."""

from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gateway.config.units import Date, Duration, Rate, Size, Text, duration_ms, expiry_ns, rate_interval_ns, size_bytes

NS = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("0ms", 0),
        ("250ms", 250),
        ("2s", 2000),
        ("5m", 300_000),
        ("1h", 3_600_000),
        ("30d", 2_592_000_000),
        ("2 s", 2000),
    ],
)
def test_durations(text, milliseconds):
    assert duration_ms(text) == milliseconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("4MiB", 4 << 20), ("1GiB", 1 << 30), ("2TiB", 2 << 40)],
)
def test_sizes(text, size):
    assert size_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "interval_ns"),
    [
        ("1/s", NS),
        ("200/s", 5_000_000),
        ("30/m", 2 * NS),
        ("1/h", 3600 * NS),
        ("1/d", 86_400 * NS),
        ("3/s", 333_333_334),
    ],
)
def test_rates_are_intervals_rounded_up_so_that_a_limit_is_never_generous(text, interval_ns):
    assert rate_interval_ns(text) == interval_ns


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01", 0),
        ("2027-11-24", 1_827_014_400),
        ("2027-11-24T08:00:00Z", 1_827_043_200),
        ("2027-11-24T10:00:00+02:00", 1_827_043_200),
    ],
)
def test_dates(text, seconds):
    assert expiry_ns(text) == seconds * NS


@pytest.mark.parametrize(
    "text", ["", "1", "s", "-1s", "1.5s", "1e3s", "1S", "1 min", "\u0661s", "1s\n", "9" * 16 + "s"]
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is not a duration; write a whole number and a unit"):
        duration_ms(text)


@pytest.mark.parametrize("text", ["", "1", "MiB", "-1B", "1KB", "1mib", "1.5MiB"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="is not a size; write a whole number and a unit"):
        size_bytes(text)


@pytest.mark.parametrize("text", ["", "1", "1/", "/s", "1/ms", "1/S", "-1/s", "1.5/s"])
def test_what_is_no_rate(text):
    with pytest.raises(ValueError, match="is not a rate; write a whole number per period"):
        rate_interval_ns(text)


@pytest.mark.parametrize("text", ["", "tomorrow", "2027-02-29", "24.11.2027"])
def test_what_is_no_date(text):
    with pytest.raises(ValueError, match="is not a date"):
        expiry_ns(text)


def read(marker, value, kind=int):
    return TypeAdapter(Annotated[kind, marker]).validate_python(value)


@pytest.mark.parametrize(
    ("marker", "least", "below", "most", "above"),
    [
        (Duration("10ms", "1m"), "10ms", "9ms", "60s", "60001ms"),
        (Size("1KiB", "1MiB"), "1024B", "1023B", "1024KiB", "1048577B"),
    ],
)
def test_limits_hold_at_the_limit_and_one_past(marker, least, below, most, above):
    assert read(marker, least) < read(marker, most)
    for outside in (below, above):
        with pytest.raises(ValidationError, match=f"{outside} is outside {marker.least} to {marker.most}"):
            read(marker, outside)


def test_rates_hold_at_the_limit_and_one_past():
    assert read(Rate("1000/s"), "60000/m") == 1_000_000
    with pytest.raises(ValidationError, match="1001/s is above 1000/s"):
        read(Rate("1000/s"), "1001/s")


@pytest.mark.parametrize("marker", [Duration("0ms", "1d"), Size("0B", "1TiB"), Rate(), Date()])
@pytest.mark.parametrize("value", [1, 1.5, True, None, ["1s"]])
def test_a_bare_number_has_no_unit(marker, value):
    with pytest.raises(ValidationError, match="has no unit; write it like"):
        read(marker, value)


def test_misplaced_secrets_are_not_repeated():
    with pytest.raises(ValidationError) as invalid:
        read(Text("[0-9a-f]{64}", "64 hex digits"), "kiosk.secret-in-the-wrong-place", str)
    problem = str(invalid.value.errors()[0]["ctx"]["error"])
    assert problem == "does not have the form it needs; write 64 hex digits"


@given(st.integers(0, 10**9))
def test_printing_a_duration_and_reading_it_gives_the_same(value):
    adapter = TypeAdapter(Annotated[int, Duration("0ms", "100000d")])
    assert adapter.validate_python(adapter.dump_python(value, mode="json")) == value


@given(st.integers(0, 1 << 42))
def test_printing_a_size_and_reading_it_gives_the_same(value):
    adapter = TypeAdapter(Annotated[int, Size("0B", "64TiB")])
    assert adapter.validate_python(adapter.dump_python(value, mode="json")) == value


@given(st.integers(1, 1_000_000), st.sampled_from("smhd"))
def test_printing_a_rate_and_reading_it_gives_the_same(count, period):
    adapter = TypeAdapter(Annotated[int, Rate()])
    interval_ns = rate_interval_ns(f"{count}/{period}")
    assert adapter.validate_python(adapter.dump_python(interval_ns, mode="json")) == interval_ns


@given(st.integers(0, 4_000_000_000))
def test_printing_a_date_and_reading_it_gives_the_same(seconds):
    adapter = TypeAdapter(Annotated[int, Date()])
    assert adapter.validate_python(adapter.dump_python(seconds * NS, mode="json")) == seconds * NS
