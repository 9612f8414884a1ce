"""What people copy from the tables is whole, in a terminal of 80 columns."""

from __future__ import annotations

from rich.console import Console

from gateway.tools.operations import custody as verbs
from stockade.v1 import custody_pb2

ID = "5f0c3b7e9a1d4c2f8e6b0a9d7c5e3f1b"
LONG = "spiffe://stockade.example/operations/administrators/" + "anna" * 8


def test_ids_are_never_folded(monkeypatch, capsys):
    monkeypatch.setattr(verbs, "terminal", Console(width=80, highlight=False))
    subject = {"tenant": "store" * 8, "subject": "[red]kiosk" * 8}
    erasure = custody_pb2.ErasureState(id=ID, state="requested", requested_by=LONG, reason="DSR " * 20, **subject)
    verbs.render_erasures([erasure])
    verbs.render_holds([custody_pb2.HoldState(id=ID, administrator=LONG, matter="case " * 20, **subject)])
    said = capsys.readouterr().out
    assert said.count(ID) == 2
    assert "[red]" in said
    assert max(map(len, said.splitlines())) <= 80
    verbs.render_erasures([])
    verbs.render_holds([])
    assert capsys.readouterr().out == "nothing was erased, and nothing waits\nnothing is held\n"
