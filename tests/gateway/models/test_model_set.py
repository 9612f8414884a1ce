"""What a host serves, as it is written down."""

from __future__ import annotations

import json

import pytest

from gateway.config.document import PolicyRejected
from gateway.models.model_set import Listed, ModelSet, read_models

ONE, TWO, OTHER = (
    Listed(name, version, f"{name}{version}", f"{name}/{version}") for name, version in ("a1", "a2", "b1")
)


def test_it_is_read_as_it_was_written(tmp_path):
    models = ModelSet((ONE, TWO), frozenset({("a", "2"), ("gone", "7")}))
    (tmp_path / "models.json").write_bytes(models.to_json())
    found = read_models(tmp_path / "models.json")
    assert (found, found.digest) == (models, models.digest)
    assert found.digest != ModelSet((ONE, TWO)).digest
    assert read_models(tmp_path / "nothing.json") == ModelSet()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"models": [], "unloaded": 1}', '{"models": [{"name": "a"}], "unloaded": []}', "[" * 10_000],
)
def test_nobody_guesses_what_a_broken_file_means(tmp_path, text):
    file = tmp_path / "models.json"
    file.write_text(text)
    with pytest.raises(PolicyRejected, match="does not say which models are in service; restore it, or remove it"):
        read_models(file)


def test_a_file_with_unknown_keys_is_broken(tmp_path):
    file = tmp_path / "models.json"
    fields = json.loads(ModelSet((ONE,)).to_json())
    fields["models"][0]["more"] = ""
    file.write_text(json.dumps(fields))
    with pytest.raises(PolicyRejected):
        read_models(file)


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (ModelSet((ONE,)), ModelSet((ONE,)), []),
        (ModelSet((ONE,)), ModelSet((ONE, TWO)), [("loaded", TWO)]),
        (ModelSet((ONE, OTHER)), ModelSet((ONE, OTHER), frozenset({("a", "1")})), [("unloaded", ONE)]),
        (ModelSet((ONE,), frozenset({("a", "1")})), ModelSet((ONE,)), [("loaded", ONE)]),
        (ModelSet((ONE,)), ModelSet((ONE, TWO), frozenset({("a", "2")})), []),
    ],
    ids=["nothing", "a new one", "out of service", "back", "a new one that is out of service"],
)
def test_what_has_changed(before, after, changes):
    assert list(after.changes(before)) == changes
