"""The signer: signs a checkpoint only when it extends the last one it signed.

It keeps that (size, root) in a file of its own beside the key, durable before the signature leaves, and takes the word
of nobody: the caller brings a consistency proof. A recorder that was taken over, or a log directory restored from an
old copy, cannot make it sign a fork or a rollback. Once it has signed for an epoch, it signs for none before. A failed
write here is final (`Poisoned` by the caller).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ops.audit.errors import CheckpointError, ForkRefused, LogCorrupted, ProofError
from ops.audit.log.checkpoint import Checkpoint, SignerKey, parse_checkpoint, sign_note
from ops.audit.log.epochs import number_of
from ops.audit.log.merkle import EMPTY_ROOT, verify_consistency
from ops.process.durable import replace_file

SEALED = "sealed"  # in a recorder's state directory: this origin was restored to less than was signed

Prove = Callable[[int, int], Sequence[bytes]]


def demand_unsealed(state_directory: Path) -> None:
    """Raise ForkRefused where `succession` has sealed the origin."""
    if (state_directory / SEALED).exists():
        raise ForkRefused(
            f"{state_directory / SEALED}: this log was restored to less than its key has signed, so it does not grow "
            "any more; begin a new one (docs/how-to/backup.md)"
        )


class Signer:
    """One per log key. Used from one thread.

    Args:
        key: of the epoch.
        state: its memory, one for all epochs.
        first: the origin of the first epoch, where this is a later one.
    """

    def __init__(self, key: SignerKey, state: Path, first: str = "") -> None:
        self._key = key
        self._state = state
        self._last = Checkpoint(key.name, 0, EMPTY_ROOT)
        if state.exists():
            try:
                self._last = parse_checkpoint(state.read_text())
            except (CheckpointError, UnicodeDecodeError) as error:
                raise LogCorrupted(state, "the signer's memory is damaged") from error
        if self._last.origin != key.name:
            self._last = _begin(key.name, first or key.name, self._last, state)

    @property
    def last(self) -> Checkpoint:
        """The newest checkpoint that was ever signed, as far as this key knows."""
        return self._last

    def demand(self, size: int, root: bytes, prove: Prove) -> None:
        """See that (size, root) extends `last`, without signing anything.

        Raises:
            ForkRefused: it does not.
        """
        last = self._last
        try:
            proof = prove(last.size, size)
            verify_consistency(last.size, size, proof, last.root, root)
        except ProofError as error:
            raise ForkRefused(
                f"a log of size {size} does not extend the size {last.size} that its key signed ({error}): "
                "an older copy was put back, or it is a fork"
            ) from error

    def sign(self, size: int, root: bytes, prove: Prove) -> bytes:
        """The signed note of (size, root). `prove(old, new)` must join it to `last`.

        Raises:
            ForkRefused: the proof does not.
        """
        self.demand(size, root, prove)
        checkpoint = Checkpoint(self._key.name, size, root)
        if checkpoint != self._last:
            replace_file(self._state, checkpoint.text().encode(), 0o600)
            self._last = checkpoint
        return sign_note(checkpoint.text(), [self._key])


def _begin(origin: str, first: str, last: Checkpoint, state: Path) -> Checkpoint:
    """The empty tree of an epoch after the one that was signed last.

    Raises:
        ForkRefused: it comes before that one, which closed it.
        LogCorrupted: that one belongs to another log.
    """
    before, now = number_of(first, last.origin), number_of(first, origin)
    if before is None or now is None:
        raise LogCorrupted(state, f"the signer's memory belongs to {last.origin}")
    if now < before:
        raise ForkRefused(f"{origin} is closed: its key has signed {last.size} entries of {last.origin}")
    return Checkpoint(origin, 0, EMPTY_ROOT)
