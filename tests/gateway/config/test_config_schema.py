"""The schemas and docs/reference/configuration.md are what the models say, and the schemas accept what the gateway
accepts.
"""

from pathlib import Path

import pytest

from gateway.config.config import Config
from gateway.policy.policy import Policy
from gateway.tools.schema import documents, json_schema, main

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", documents())
def test_the_committed_document_is_current(name):
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == documents()[name], (
        "run `python -m gateway.tools.schema`"
    )


def test_check_says_what_is_stale(tmp_path, capsys):
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    (tmp_path / "reference/configuration.md").write_text("old")
    (tmp_path / "schema/policy.schema.json").unlink()
    assert main(["--check"], tmp_path) == 1
    problems = capsys.readouterr().err.splitlines()
    assert [Path(line.split(" is not ")[0]).name for line in problems] == ["policy.schema.json", "configuration.md"]


@pytest.mark.parametrize("model", [Config, Policy])
def test_every_key_is_documented(model):
    schema = json_schema(model)
    definitions = schema["$defs"]
    for section in (schema, *definitions.values()):
        assert section["description"]
        assert section["additionalProperties"] is False
        for key, value in section["properties"].items():
            referred = any("$ref" in str(part) for part in (value, value.get("additionalProperties")))
            assert value.get("description") or referred, key


def test_units_are_text_with_a_pattern():
    timeout = json_schema(Config)["$defs"]["Audit"]["properties"]["append_timeout"]
    assert timeout["pattern"] == "^[0-9]+ ?(ms|s|m|h|d)$"
    assert timeout["default"] == "2s"
