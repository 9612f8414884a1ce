"""Makes receipts from a published log: the entry, its proof, and a checkpoint, in one file."""

from ops.audit.log.tlog_proof import TlogProof
from ops.audit.reader.read import LogReader


def make_proof(reader: LogReader, index: int, checkpoint: bytes) -> TlogProof:
    """The receipt of an entry; `checkpoint` is the signed note that the reader was opened at.

    Raises:
        ReadError: the entry, or a tile of its proof, is not there.
    """
    [entry] = reader.entries(index, 1)
    return TlogProof(index, tuple(reader.inclusion_proof(index)), checkpoint, entry)
