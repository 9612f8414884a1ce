"""Has the newest public checkpoint of a log cosigned by the witnesses of a policy, and keeps it when enough did."""

from pathlib import Path
from threading import Thread

from ops.audit.errors import WitnessAhead, WitnessError, WitnessRefused
from ops.audit.log.checkpoint import Checkpoint, open_checkpoint
from ops.audit.log.epochs import keys_for
from ops.audit.log.trust_policy import TrustPolicy
from ops.audit.reader.read import LogReader
from ops.audit.witnesses.client import Asked, ask_all
from ops.process.durable import replace_file


def cosign_newest(
    directory: Path, policy: TrustPolicy, out: Path, *, timeout_s: float, asking: dict[str, Thread] | None = None
) -> tuple[Checkpoint, Asked]:
    """Ask every witness once; `out` is replaced when those that cosigned make the quorum. `asking`: see `ask_all`.

    Raises:
        NoteError: the checkpoint is not signed by a log of the policy.
        OSError: there is no checkpoint, or `out` cannot be written.
    """
    note = (directory / "checkpoint").read_bytes()
    keys = keys_for(note, (log.key for log in policy.logs))
    checkpoint = open_checkpoint(note, keys)
    reader = LogReader(directory, checkpoint)
    asked = ask_all(
        note,
        checkpoint,
        policy.witnesses.values(),
        lambda old, _: reader.consistency_proof(old),
        asking=asking,
        timeout_s=timeout_s,
    )
    if any(isinstance(failure, WitnessAhead) and failure.size for failure in asked.failures.values()):
        grown = open_checkpoint((directory / "checkpoint").read_bytes(), keys).size
        asked = Asked(asked.lines, {name: overtaken(failure, grown) for name, failure in asked.failures.items()})
    if policy.enough(asked.lines):
        replace_file(out, note + "".join(asked.lines.values()).encode())
    return checkpoint, asked


def overtaken(failure: WitnessError, grown: int) -> WitnessError:
    """Return the failure; a witness is not ahead that somebody else asked while the log grew to `grown`."""
    if isinstance(failure, WitnessAhead) and 0 < failure.size <= grown:
        return WitnessRefused(failure.name, f"it has cosigned size {failure.size} meanwhile; it will be asked again")
    return failure
