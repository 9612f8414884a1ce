"""Profiles: defaults for other machines; every key of the file goes before them, and none makes a gateway less safe."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.cli.main import main
from gateway.config.document import ConfigRejected
from gateway.config.load import load_config, parse_config
from gateway.config.place import place_of
from gateway.config.profiles import PROFILES, laid_under
from gateway.host.recorder import recorder_settings
from gateway.tools.check.check import check
from gateway.tools.init.files import Ports
from gateway.tools.init.init import init_directory
from gateway.tools.samples import bundles_directory

MINIMAL = Path(__file__).parents[2] / "configs/ok/config/minimal.yaml"
FILE = Path("stockade.yaml")


def leaves(values: Mapping[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*at, key))
        else:
            yield (*at, key), value


def found(values: Any, at: tuple[str, ...]) -> Any:
    for key in at:
        values = values[key]
    return values


def configured(profile: str | None = None, **changes: Any):
    document = yaml.safe_load(MINIMAL.read_text()) | changes
    return parse_config(yaml.safe_dump(document).encode(), FILE, profile)


@pytest.mark.parametrize("name", PROFILES)
def test_what_a_profile_says_is_what_holds(name):
    shown = configured(name).masked()
    assert shown["profile"] == name
    assert all(found(shown, at) == value for at, value in leaves(PROFILES[name]))


def test_the_standard_profile_is_no_profile():
    assert configured("standard") == configured()
    assert configured().cache is None


@pytest.mark.parametrize("name", PROFILES)
def test_no_profile_makes_a_gateway_less_safe(name):
    assert not any(key.startswith("unsafe_") for at, _ in leaves(PROFILES[name]) for key in at)
    assert PROFILES[name].keys().isdisjoint({"tls", "policy", "bundles", "listen"})


def test_the_file_goes_before_its_profile_key_by_key():
    config = configured("edge", engine={"batch_rows_max": 5}, cache={"entries_max": 7}, workers=2)
    assert (config.engine.batch_rows_max, config.engine.queue_rows_max) == (5, 256)
    assert (config.cache.entries_max, config.cache.ttl_ms, config.workers) == (7, 600_000, 2)
    assert configured("edge", cache=None).cache is None


def test_the_command_line_goes_before_the_profile_of_the_file():
    document = {**yaml.safe_load(MINIMAL.read_text()), "profile": "edge"}
    data = yaml.safe_dump(document).encode()
    assert parse_config(data, FILE).transport.in_flight_max == 128
    config = parse_config(data, FILE, "standard")
    assert (config.profile, config.transport.in_flight_max, config.cache) == ("standard", 2048, None)


@pytest.mark.parametrize("values", [None, [], "edge", {"engine": 3}, {"profile": 3}, {"profile": ["edge"]}])
def test_whatever_stands_in_a_file_is_left_to_whoever_reads_it(values):
    laid = laid_under(values, None)
    assert laid == values or laid["engine"] == 3
    with pytest.raises(ConfigRejected):
        parse_config(yaml.safe_dump(values).encode(), FILE)


def test_a_profile_that_does_not_exist_is_refused_on_the_command_line_too(made, capsys):
    assert main(["check", str(made), "--profile", "egde"]) == 1
    assert "'egde' is not known here; write 'standard' or 'edge'" in capsys.readouterr().out
    assert main(["serve", str(made), "--profile", "egde"]) == 2


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("made") / "site"
    init_directory(
        home, now=datetime.now(UTC), random_bytes=os.urandom, ports=Ports(0, 0, 0, 0), bundles=bundles_directory()
    )
    return home / "stockade.yaml"


def test_a_new_directory_leaves_a_profile_its_bounds(made):
    shown = load_config(made, "edge").masked()
    assert [at for at, value in leaves(PROFILES["edge"]) if found(shown, at) != value] == []


def test_check_shows_what_the_profile_makes_of_the_file(made, capsys):
    assert check(made, datetime.now(UTC), "edge").config.profile == "edge"
    assert main(["check", str(made), "--profile", "edge"]) == 0
    lines = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines() if len(line.split()) > 1}
    assert (lines["profile"], lines["engine.batch_rows_max"], lines["cache.bytes_max"]) == ("edge", "16", "8MiB")
    assert lines["audit.publish_every"] == "5s"


def test_the_recorder_publishes_as_often_as_the_profile_says(made):
    config = load_config(made, "edge")
    assert recorder_settings(config, place_of(config)).publish_every_ms == 5000
    config = load_config(made)
    assert recorder_settings(config, place_of(config)).publish_every_ms == 1000
