"""stockade.yaml: every rule by its broken file, limits at and one past, and what loading promises."""

import contextlib
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load as config_module
from gateway.config.config import Config
from gateway.config.document import ConfigRejected, FileRejected
from gateway.config.load import load_config, parse_config
from gateway.policy.load import parse_policy
from gateway.policy.policy import Policy
from gateway.tools.schema import json_schema

CONFIGS = Path(__file__).parents[2] / "configs"
MINIMAL = (CONFIGS / "ok/config/minimal.yaml").read_bytes()
PARSERS = {"config": parse_config, "policy": parse_policy}


def files(kind):
    found = sorted((CONFIGS / kind).glob("*/*.yaml"))
    assert len(found) > 3
    return [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in found]


@pytest.mark.parametrize("path", files("ok"))
def test_a_good_file_is_accepted(path):
    assert len(PARSERS[path.parent.name](path.read_bytes(), path).digest) == 64


@pytest.mark.parametrize("path", files("busted"))
def test_a_broken_file_gets_exactly_its_message(path):
    """The comment lines at its head are the messages, without the file's name."""
    data = path.read_bytes()
    expected = []
    for line in data.decode().splitlines():
        if not line.startswith("# "):
            break
        expected.append(f"stockade.yaml:{line[2:]}")
    assert expected, "say at the head of the file what it must give"
    with pytest.raises(FileRejected) as rejected:
        PARSERS[path.parent.name](data, Path("stockade.yaml"))
    assert list(rejected.value.lines) == expected


@pytest.mark.parametrize("path", files("busted"))
def test_a_message_names_a_field_that_can_be_found(path):
    """Its last name is a key of the schema, or stands in the file: generated messages are held to something else."""
    model = Config if path.parent.name == "config" else Policy
    schema = json_schema(model)
    known = {key for section in (schema, *schema["$defs"].values()) for key in section["properties"]}
    head = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    body = path.read_text().removeprefix("\n".join(head))
    for line in head:
        field = re.match(r"# \d+: ([^:]+): (?:is |has |')", line)
        if field:
            last = re.sub(r"\[\d+\]$", "", field[1]).rpartition(".")[2]
            assert last in known or f"{last}:" in body, line


def test_paths_are_relative_to_the_file(tmp_path):
    config = parse_config(MINIMAL, tmp_path / "stockade.yaml")
    assert config.audit.directory == tmp_path / "log"
    assert config.bundles.trusted_keys == (tmp_path / "keys/bundles.pub",)


def test_the_digest_stays_when_the_directory_moves_and_changes_when_the_content_does(tmp_path):
    here = parse_config(MINIMAL, tmp_path / "stockade.yaml")
    there = parse_config(MINIMAL, tmp_path / "moved" / "stockade.yaml")
    spelled_out = parse_config(MINIMAL + b"workers: 1\n", tmp_path / "stockade.yaml")
    other = parse_config(MINIMAL + b"workers: 2\n", tmp_path / "stockade.yaml")
    assert here.digest == there.digest == spelled_out.digest
    assert re.fullmatch("[0-9a-f]{64}", here.digest)
    assert other.digest != here.digest


def test_what_is_shown_is_what_could_be_written(tmp_path):
    """The effective form is itself a valid file with the same digest, so nothing is lost in showing it."""
    import yaml

    path = tmp_path / "stockade.yaml"
    config = parse_config((CONFIGS / "ok/config/every-key-at-its-limit.yaml").read_bytes(), path)
    again = parse_config(yaml.safe_dump(config.masked()).encode(), path)
    assert again == config
    assert again.digest == config.digest


def test_a_config_cannot_be_changed(tmp_path):
    config = parse_config(MINIMAL, tmp_path / "stockade.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.workers = 2


@pytest.fixture
def on_disk(tmp_path):
    path = tmp_path / "stockade.yaml"
    path.write_bytes(MINIMAL)
    (tmp_path / "tls").mkdir()
    (tmp_path / "keys").mkdir()
    for name in ("tls/server.key", "keys/log.key", "keys/payload-master.key", "keys/pepper"):
        (tmp_path / name).touch(mode=0o600)
    return path


def test_secrets_of_the_owner_and_of_a_reading_group_are_accepted(on_disk):
    (on_disk.parent / "keys/pepper").chmod(0o440)
    assert load_config(on_disk).workers == 1


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o610, 0o644])
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("tls/server.key", "4: tls.key"),
        ("keys/log.key", "10: audit.signing_key"),
        ("keys/payload-master.key", "12: audit.master_key"),
        ("keys/pepper", "14: policy.pepper"),
    ],
)
def test_a_secret_that_others_can_use_is_refused(on_disk, name, where, mode):
    secret = on_disk.parent / name
    secret.chmod(mode)
    with pytest.raises(ConfigRejected) as rejected:
        load_config(on_disk)
    expected = f"has mode {mode:04o}, so others can use the secret; run `chmod 600 {secret}`"
    assert rejected.value.lines == (f"{on_disk}:{where}: {secret.name} {expected}",)


def test_a_secret_out_of_sight_is_not_loadings_business(on_disk):
    (on_disk.parent / "keys/log.key").unlink()
    assert load_config(on_disk).audit.signing_key.name == "log.key"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigRejected) as rejected:
        load_config(tmp_path / "nowhere.yaml")
    assert str(rejected.value) == (
        f"{tmp_path}/nowhere.yaml: cannot be read (No such file or directory); name an existing file"
    )


def test_the_file_has_a_size_limit(on_disk):
    limit = config_module.CONFIG_BYTES_MAX
    padding = b"#" * (limit - len(MINIMAL))
    on_disk.write_bytes(MINIMAL + padding)
    assert load_config(on_disk).workers == 1
    on_disk.write_bytes(MINIMAL + padding + b"#")
    with pytest.raises(ConfigRejected, match=f"is larger than {limit} bytes"):
        load_config(on_disk)


def test_nesting_is_bounded_at_the_limit_and_one_past():
    with pytest.raises(ConfigRejected, match=r"^s.yaml:1: version"):
        parse_config(b"version: " + b"[" * 16 + b"]" * 16, Path("s.yaml"))
    with pytest.raises(ConfigRejected, match="is nested more than 16 deep"):
        parse_config(b"version: " + b"[" * 17 + b"]" * 17, Path("s.yaml"))


def test_text_that_is_not_utf8_is_refused_with_its_line():
    with pytest.raises(ConfigRejected, match=r"^s.yaml:2: is not UTF-8 text; save it as UTF-8$"):
        parse_config(b"version: 1\nstate_dir: \xff\n", Path("s.yaml"))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(data):
    with pytest.raises(ConfigRejected):
        parse_config(data, Path("s.yaml"))


@given(st.integers(0, len(MINIMAL) - 1), st.binary(min_size=1, max_size=3))
def test_any_damage_gives_a_config_or_a_refusal(at, damage):
    with contextlib.suppress(ConfigRejected):
        parse_config(MINIMAL[:at] + damage + MINIMAL[at + 1 :], Path("s.yaml"))


def test_importing_reads_no_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    assert parse_config(MINIMAL, tmp_path / "stockade.yaml").workers == 1
