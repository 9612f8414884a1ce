"""The tree in each errors module's docstring is the tree of its classes, so that a reader may trust it."""

from __future__ import annotations

import inspect
import re

import pytest

import serving.errors
import serving.train.errors


def drawn(module):
    """Return class name to parent name, as drawn with box characters."""
    parents, path = {}, []
    for line in module.__doc__.split("```")[1].strip("\n").splitlines():
        match = re.match(r"([│├└─ ]*)(\w+)", line)
        depth = len(match[1]) // 4
        path[depth:] = [match[2]]
        parents[match[2]] = path[depth - 1] if depth else None
    return parents


@pytest.mark.parametrize("module", [serving.errors, serving.train.errors], ids=lambda module: module.__name__)
def test_the_docstring_draws_the_tree(module):
    own = [
        item
        for _, item in inspect.getmembers(module, inspect.isclass)
        if item.__module__ == module.__name__ and issubclass(item, Exception)
    ]
    names = {item.__name__ for item in own}
    real = {item.__name__: next((b.__name__ for b in item.__bases__ if b.__name__ in names), None) for item in own}
    assert drawn(module) == real
