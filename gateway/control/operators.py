"""What operators may ask besides status and policy: one table of methods about callers, reviews and incidents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.control.incident_methods import incident_methods
from gateway.control.quarantine.methods import quarantine_methods
from gateway.control.replay_methods import replay_methods
from gateway.control.tenants.methods import segmentation_methods

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.control.admin import Control
    from gateway.edge.service import Call
    from gateway.request.state import Answer


def operator_methods(control: Control) -> dict[str, Callable[[Call, bytes], Awaitable[Answer]]]:
    """Return the methods about callers, what waits for review, and incidents, by their names."""
    return {
        **segmentation_methods(control),
        **quarantine_methods(control),
        **incident_methods(control),
        **replay_methods(control),
    }
