"""Where an answer's record has to be before the answer may leave: `acknowledge` of a model in the policy.

`local`: durable on this host, which every answer is. `replica`: in a checkpoint that the object store holds with all it
names. `witnessed`: in one that the quorum has cosigned. The supervisor asks both, and says how far each is.

Rules:
- What waits is an answer whose record is durable and says `served`. When the time is over, the caller gets
  NOT_ACKNOWLEDGED with the index of that record, and nobody answers that request any more.
- It waits as long as its caller's deadline allows, `audit.acknowledge_timeout` at most, and holds its place among the
  calls in flight: their limit is the limit of what waits.
- Refusals do not wait: they give nothing away that a lost record would have to account for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import errors
from gateway.config.document import PolicyRejected
from gateway.request.completion import refuse

if TYPE_CHECKING:
    from gateway.config.audit import Audit
    from gateway.models.rules import Level
    from gateway.policy.policy import Policy
    from gateway.request.gateway import Gateway
    from gateway.request.record import Record


async def acknowledged(level: Level, record: Record, gw: Gateway) -> None:
    """Wait until the record of an answer, which is durable, is where its model's policy wants it.

    Raises:
        NotAcknowledged: not in time.
    """
    assert record.audit_index is not None, "there is no answer without a record"
    place = (record.audit_epoch, record.audit_index)
    if gw.elsewhere.has(level, place):
        return
    began_ns = gw.clock_ns()
    left_ns = gw.elsewhere.timeout_ns
    if record.deadline_ns is not None:
        left_ns = min(left_ns, max(0, record.deadline_ns - began_ns))
    try:
        await gw.elsewhere.wait(level, place, left_ns)
    except TimeoutError:
        refusal = errors.NotAcknowledged()
        refuse(record, refusal)  # for metrics and traces: the entry in the log is written, and says served
        raise refusal from None
    finally:
        record.stage("acknowledge", gw.clock_ns() - began_ns)


def require_places(policy: Policy, audit: Audit) -> None:
    """Raise PolicyRejected for a model whose answers would wait for what this gateway does not have."""
    there = {"local": True, "replica": audit.replication is not None, "witnessed": audit.witnesses is not None}
    keys = {"replica": "replication", "witnessed": "witnesses"}
    faults = [
        f"models.{name}.acknowledge: {model.acknowledge} needs `audit.{keys[model.acknowledge]}` in stockade.yaml"
        for name, model in policy.models.items()
        if not there[model.acknowledge]
    ]
    if faults:
        raise PolicyRejected(faults)
