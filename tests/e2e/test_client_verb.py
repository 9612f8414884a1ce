"""`stockade client` against a running gateway."""

from __future__ import annotations

import json
import re

import pytest

from gateway.cli.main import main
from gateway.tools.client import class_names
from tests.e2e.caller import labels


@pytest.fixture
def ask(stand, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def client(*options: str, key: str = "plenty") -> tuple[int, str]:
        file = tmp_path / "key"
        file.write_text(stand.site.keys.get(key, key))
        address = stand.facts["data"].replace("127.0.0.1", "localhost")
        code = main(["client", str(stand.site.directory), "--address", address, "--key", str(file), *options])
        return code, capsys.readouterr().out

    return client


def test_answers_and_what_they_come_to(ask, stand):
    code, said = ask("--count", "30")
    assert code == 0
    assert re.fullmatch(r"30 requests: 30 ok, 0 refused, p50 \d+\.\d ms", said.splitlines()[-1])
    names = class_names(stand.site.directory / "bundles")
    assert all(name in said for name in {names[label] for label in labels()[:10]})


def test_refusals_are_whole(ask):
    code, said = ask("--count", "2", key="nobody." + "A" * 43)
    assert code == 1
    assert said.splitlines()[-1].startswith("2 requests: 0 ok, 2 refused")
    assert (
        len(re.findall(r"^image \d: \[CREDENTIAL_INVALID\] .* \(request_id=[0-9a-f]{32}\)$", said, re.MULTILINE)) == 2
    )


def test_refusals_for_machines_name_the_request(ask):
    code, said = ask("--count", "2", "--json", key="nobody." + "A" * 43)
    answers = [json.loads(line) for line in said.splitlines()]
    assert (code, len(answers)) == (1, 2)
    assert all(answer["request_id"] in answer["details"] for answer in answers)
