"""`stockade check` says who is kept out, and what would keep a host from starting."""

from __future__ import annotations

from dataclasses import replace

from gateway.auth.isolation import ISOLATIONS, Isolations
from gateway.config.load import load_config
from gateway.config.place import place_of
from tests.gateway.auth.test_isolation import ALL, ONE
from tests.gateway.tools.check.test_config_check import at, found, good

__all__ = ["at", "good"]


def test_who_is_kept_out_and_a_list_that_cannot_be_read(at):
    file = place_of(load_config(at / "stockade.yaml")).memory.with_name(ISOLATIONS)
    assert found(at) == []
    file.write_bytes(Isolations((ONE, replace(ALL, reason="unpaid"))).to_json())
    see = "see `stockade tenants list`"
    assert found(at) == [
        ("warning", "policy.file", f"an operator keeps principal kiosk of tenant store out: asks too much; {see}"),
        ("warning", "policy.file", f"an operator keeps tenant lab out: unpaid; {see}"),
    ]
    file.write_text("{}")
    ((level, where, problem),) = found(at)
    assert (level, where) == ("error", "audit.state_directory")
    assert "does not say who is kept out" in problem
