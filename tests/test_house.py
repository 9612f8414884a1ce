"""The house: how many rooms there are, that no imports go in circles, and that files are neither large nor tiny.

The order of the rooms is import-linter's (`make check`); here stands what it does not look at.
"""

import pytest

from scripts.house import PACKAGES, ROOT, arrows, circles, exceptions, imports, modules, order

ROOMS_MAX = {"gateway": 16, "serving": 12, "defenses": 12, "ops": 12}
EXCEPTIONS_MAX = 12
FILE_LINES_MAX = 400
FILE_LINES_MIN = 30
SMALL = {
    "gateway.__main__": "where the command begins",
    "gateway.cli.ray": "a group of commands is a module",
    "gateway.codec.classification": "an extension of the protocol by itself",
    "gateway.tools.audit.log_store": "four commands open logs in object stores",
    "gateway.tools.check.finding": "what the three parts of the check hand each other",
    "gateway.tools.lab.catalogue": "reads the table of experiments, and loads nothing else",
    "gateway.tools.samples": "where the models that come with the project are, for all tools",
}
"""Modules of fewer lines than FILE_LINES_MIN, each with its reason."""


@pytest.fixture(scope="module")
def graph():
    return imports()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_few_rooms(package):
    there = [
        path.name
        for path in (ROOT / package).iterdir()
        if not path.name.startswith((".", "__init__", "__pycache__")) and path.name != "py.typed"
    ]
    assert len(there) <= ROOMS_MAX[package], there


def test_no_imports_go_in_a_circle(graph):
    assert circles(graph) == []


def test_every_room_has_its_place_in_the_order(graph):
    listed = {f"{package}.{room}" for package, layers in order().items() for layer in layers for room in layer}
    assert {room for pair in arrows(graph) for room in pair} <= listed


def test_few_imports_are_against_the_order():
    assert len(exceptions()) <= EXCEPTIONS_MAX


def test_no_file_is_too_long():
    sizes = {name: path.read_text(encoding="utf-8").count("\n") for name, path in modules().items()}
    generated = {name for name in sizes if name.endswith("_pb2")}
    assert {name: size for name, size in sizes.items() if size > FILE_LINES_MAX and name not in generated} == {}


def test_a_file_of_a_few_lines_has_its_reason():
    small = {
        name
        for name, path in modules().items()
        if path.name != "__init__.py" and path.read_text(encoding="utf-8").count("\n") < FILE_LINES_MIN
    }
    assert small == SMALL.keys()


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [["a", "b", "c"]]),
        ({"a": {"b"}, "b": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}, [["a", "b"], ["c", "d"]]),
    ],
)
def test_a_circle_is_seen(wrong, found):
    assert sorted(circles(wrong)) == found
