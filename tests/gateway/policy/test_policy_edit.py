"""The text of policy.yaml with another version in force: comments stay, and whatever cannot be edited is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gateway.config.document import PolicyRejected
from gateway.config.parse import parse
from gateway.policy.edit import edit

FILE = Path("policy.yaml")
CANARY = {"canary": {"version": "3", "steps": [0.1, 1], "step_every": "10m"}}
BLOCK = """\
# ours: Größe
version: 1
revision: 7  # up, always
models:
  other: {serve: "1", release: {weights: {"1": 1}}}
  kiosk:
    # the one in the shops
    serve: "1"  # since March
    cost_per_row: 2
principals:
  a: {}
"""
BLOCK_RELEASE = BLOCK.replace(
    "    cost_per_row: 2\n",
    '    release:  # on trial\n      canary:\n        version: "2"\n        steps: [0.1, 1]  # slowly\n'
    "    cost_per_row: 2\n",
)
LAST = BLOCK.replace("    cost_per_row: 2\n", '    release:\n      weights:\n        "1": 0.5\n        "2": 0.5\n')
FLOW = '{"version": 1, "revision": 7, "models": {"kiosk": {"serve": "1", "cost_per_row": 2}}}'
FLOW_RELEASE = '{"revision": 7, "models": {"kiosk": {"serve": "1", "release": {"weights": {"1": 1}}}}}'
FLOW_FIRST = '{"revision": 7, "models": {"kiosk": {"release": {"weights": {"1": 1}}, "serve": "1"}}}'
TEXTS = {
    "block": BLOCK,
    "block with a release": BLOCK_RELEASE,
    "release last": LAST,
    "no end of line": BLOCK.rstrip(),
    "flow": FLOW,
    "flow with a release": FLOW_RELEASE,
    "release first": FLOW_FIRST,
    "flow in block": 'revision: 7\nmodels:\n  kiosk: {serve: "1", cost_per_row: 2}\n',
    "bare": "revision: 7\nmodels:\n  kiosk:\n    serve: v1\n",
    "quotes": "revision: 7\nmodels:\n  kiosk:\n    'serve': '1'",
}


@pytest.mark.parametrize("release", [None, CANARY], ids=["no release", "a canary"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_nothing_changes_but_what_is_meant(text, release):
    made = edit(text, FILE, "kiosk", "2", release)
    before, after = (parse(each.encode(), FILE, PolicyRejected).value for each in (text, made.text))
    before["revision"] = 8
    before["models"]["kiosk"].pop("release", None)
    before["models"]["kiosk"] |= {"serve": "2"} | ({"release": release} if release else {})
    assert (after, made.revision) == (before, 8)
    assert yaml.safe_load(made.text) == before


def test_comments_and_order_stay():
    assert edit(BLOCK, FILE, "kiosk", "2", None).text == BLOCK.replace('"1"  # since', '"2"  # since').replace("7", "8")
    made = edit(BLOCK_RELEASE, FILE, "kiosk", "2", CANARY).text.splitlines()
    assert made[2] == "revision: 8  # up, always"
    assert made[6:10] == [
        "    # the one in the shops",
        '    serve: "2"  # since March',
        '    release: {"canary": {"version": "3", "steps": [0.1, 1], "step_every": "10m"}}',
        "    cost_per_row: 2",
    ]


def test_what_cannot_be_edited_is_told():
    odd = 'revision: 7\nmodels:\n  kiosk:\n    serve:\n      "1"\n    release: {shadow: {version: "2"}}\n'
    assert edit(odd, FILE, "kiosk", "2", None).revision == 8
    multiline = 'revision: 7\nmodels:\n  kiosk:\n    serve: "1\\\n      0"\n'
    made = edit(multiline, FILE, "kiosk", "2", None)
    assert yaml.safe_load(made.text)["models"]["kiosk"]["serve"] == "2"
    alone = 'revision: 7\nmodels:\n  kiosk: {release: {shadow: {version: "2"}}, serve: "1" }\n'
    assert "release" not in edit(alone, FILE, "kiosk", "2", None).text
    with pytest.raises(PolicyRejected, match=r"is written in a way that cannot be edited here; write .* by hand"):
        edit('revision: 7\nmodels:\n  kiosk:\n    ? serve\n    : "1"\n', FILE, "kiosk", "2", CANARY)
