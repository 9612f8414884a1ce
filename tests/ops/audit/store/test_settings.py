"""The recorder's settings on their way to its process."""

from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import SettingsError
from ops.audit.store.settings import RecorderSettings
from tests.faults.recorder_process import settings_in


def test_settings_round_trip(tmp_path):
    for settings in (settings_in(tmp_path), settings_in(tmp_path, metrics_directory=Path("/m"))):
        assert RecorderSettings.from_json(settings.to_json()) == settings


@given(st.binary(max_size=60))
def test_any_bytes_are_settings_or_refused(data):
    with pytest.raises(SettingsError):
        RecorderSettings.from_json(data)


@pytest.mark.parametrize(
    "change",
    [{"surplus": 1}, {"origin": 5}, {"heartbeat_ms": "5"}, {"heartbeat_ms": True}, {"socket": None}, {"directory": 1}],
    ids=str,
)
def test_unknown_names_and_wrong_types_are_refused(tmp_path, change):
    values = {**orjson.loads(settings_in(tmp_path).to_json()), **change}
    with pytest.raises(SettingsError):
        RecorderSettings.from_json(orjson.dumps(values))


def test_missing_names_are_refused():
    with pytest.raises(SettingsError, match="missing"):
        RecorderSettings.from_json(b"{}")


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("group_records_max", 1, 4096),
        ("group_bytes_max", 65_536, 4 << 20),
        ("publish_every_ms", 1, 60_000),
        ("publish_records", 1, 65_536),
        ("heartbeat_ms", 10, 60_000),
        ("disk_warn_percent", 1, 95),
        ("reserve_bytes", 0, 1 << 30),
        ("segment_bytes", 1 << 20, 1 << 30),
    ],
)
def test_limits_and_one_past_them(tmp_path, name, least, most):
    settings = settings_in(tmp_path, disk_warn_percent=85, disk_stop_percent=95)
    for value in (least, most):
        assert getattr(replace(settings, **{name: value}), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(SettingsError, match=name):
            replace(settings, **{name: value})


@pytest.mark.parametrize("change", [{"log_level": "loud"}, {"log_format": "xml"}], ids=str)
def test_unknown_levels_and_formats_of_the_log_are_refused(tmp_path, change):
    with pytest.raises(SettingsError, match=next(iter(change.values()))):
        replace(settings_in(tmp_path), **change)


def test_a_socket_is_for_its_owner_or_its_group(tmp_path):
    for mode in (0o600, 0o660):
        assert (
            RecorderSettings.from_json(replace(settings_in(tmp_path), socket_mode=mode).to_json()).socket_mode == mode
        )
    for mode in (0o666, 0o662, 0o661, 0):
        with pytest.raises(SettingsError, match="lets in others"):
            replace(settings_in(tmp_path), socket_mode=mode)


@pytest.mark.parametrize("origin", ["", " a", "a+b", "a\nb"])
def test_origins_that_cannot_name_a_key_are_refused(tmp_path, origin):
    with pytest.raises(SettingsError):
        replace(settings_in(tmp_path), origin=origin)
