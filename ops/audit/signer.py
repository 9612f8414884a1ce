"""The signer: signs a checkpoint only when it extends the last one it signed.

It keeps that (size, root) in a file of its own beside the key, durable before the signature leaves, and takes the word
of nobody: the caller brings a consistency proof. A recorder that was taken over, or a log directory restored from an
old copy, cannot make it sign a fork or a rollback. A failed write here is final (`Poisoned` by the caller).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ops.audit.checkpoint import Checkpoint, SignerKey, parse_checkpoint, sign_note
from ops.audit.durable import replace_file
from ops.audit.errors import CheckpointError, ForkRefused, LogCorrupted, ProofError
from ops.audit.merkle import EMPTY_ROOT, verify_consistency

SEALED = "sealed"  # in a recorder's state directory: this origin was restored to less than was signed

Prove = Callable[[int, int], Sequence[bytes]]


def demand_unsealed(state_directory: Path) -> None:
    """Raise ForkRefused where `succession` has sealed the origin."""
    if (state_directory / SEALED).exists():
        raise ForkRefused(
            f"{state_directory / SEALED}: this log was restored to less than its key has signed, so it does not grow "
            "any more; begin a new one (docs/backup.md)"
        )


class Signer:
    """One per log key. Used from one thread."""

    def __init__(self, key: SignerKey, state: Path) -> None:
        self._key = key
        self._state = state
        self._last = Checkpoint(key.name, 0, EMPTY_ROOT)
        if state.exists():
            try:
                self._last = parse_checkpoint(state.read_text())
            except (CheckpointError, UnicodeDecodeError) as error:
                raise LogCorrupted(state, "the signer's memory is damaged") from error
        if self._last.origin != key.name:
            raise LogCorrupted(state, f"the signer's memory belongs to {self._last.origin}")

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
