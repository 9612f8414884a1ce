"""Asks witnesses to cosign a checkpoint of ours (c2sp.org/tlog-witness), and believes none of them.

A witness says which size it has cosigned before, and gets the proof from there. Its answer counts when it verifies
under the key that the policy has for it. One that lies, stalls or has lost its database costs its own cosignature.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ops.audit.errors import NoteError, ProofError, ReadError, WitnessAhead, WitnessError, WitnessRefused, WitnessSilent
from ops.audit.log.checkpoint import NOTE_BYTES_MAX, Checkpoint, open_checkpoint, open_note, signature_line
from ops.audit.log.cosignature import time_of
from ops.audit.log.epochs import keys_for
from ops.audit.log.trust_policy import TrustedWitness, TrustPolicy
from ops.audit.reader.read import LogReader
from ops.audit.witnesses.witness import AddCheckpoint
from ops.process.durable import replace_file

TIMEOUT_S = 10.0
ATTEMPTS = 3  # each 409 says which size to go from, which another log process may change meanwhile
SIZE_DIGITS_MAX = 19

Prove = Callable[[int, int], Sequence[bytes]]


class _NoRedirects(HTTPRedirectHandler):
    """A witness is where the policy says, nowhere else."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of asking: the cosignature lines that verified, by the policy's names, and who gave none and why."""

    lines: dict[str, str]
    failures: dict[str, WitnessError]


def ask_all(
    note: bytes,
    checkpoint: Checkpoint,
    witnesses: Iterable[TrustedWitness],
    prove: Prove,
    *,
    asking: dict[str, Thread] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Asked:
    """Ask every witness that has a URL, all at once, for a cosignature of the checkpoint in this note.

    Args:
        note: the signed note.
        checkpoint: what is in it.
        witnesses: of the policy.
        prove: gives the consistency proof from one size to another; called from several threads.
        asking: who is being asked, by name; the caller keeps it. Who has not done with the last question is not asked
            another: one that answers a byte at a time holds one thread, and no more.
        timeout_s: for all of it.
    """
    lines: dict[str, str] = {}
    failures: dict[str, WitnessError] = {}

    def ask(witness: TrustedWitness) -> None:
        try:
            lines[witness.name] = cosignature(note, checkpoint, witness, prove, timeout_s=timeout_s)
        except WitnessError as error:
            failures[witness.name] = error
        except (ReadError, ProofError) as error:  # of our own log
            failures[witness.name] = WitnessError(witness.name, f"the proof it asks for cannot be made: {error}")

    asking = {} if asking is None else asking
    until = time.monotonic() + timeout_s
    asked = [witness for witness in witnesses if witness.url]
    for witness in asked:
        if witness.name in asking and asking[witness.name].is_alive():
            failures[witness.name] = WitnessSilent(witness.name, "it has not done with the last question")
            continue
        asking[witness.name] = Thread(target=ask, args=(witness,), daemon=True)
        asking[witness.name].start()
    for witness in asked:
        if witness.name not in failures:
            asking[witness.name].join(max(0.0, until - time.monotonic()))
    given, refused = dict(lines), dict(failures)
    late = [witness.name for witness in asked if witness.name not in given and witness.name not in refused]
    return Asked(given, refused | {name: WitnessSilent(name, f"no answer within {timeout_s:g} s") for name in late})


def cosignature(
    note: bytes, checkpoint: Checkpoint, witness: TrustedWitness, prove: Prove, *, timeout_s: float = TIMEOUT_S
) -> str:
    """One witness's signature line for the checkpoint in this note, verified.

    Raises:
        WitnessSilent, WitnessRefused, WitnessAhead: there is none, and why.
    """
    old = 0
    for _ in range(ATTEMPTS):
        proof = tuple(prove(old, checkpoint.size))
        status, body = _post(witness, AddCheckpoint(old, proof, note).body(), timeout_s)
        if status == HTTPStatus.OK:
            return _verified(note, body, witness)
        if status == HTTPStatus.UNPROCESSABLE_ENTITY and old:
            problem = f"it refuses the proof from size {old}, which it has cosigned: a fork ({_quoted(body)})"
            raise WitnessAhead(witness.name, problem)
        if status != HTTPStatus.CONFLICT:
            raise WitnessRefused(witness.name, f"HTTP {status}: {_quoted(body)}")
        named = _size(body, witness)
        if named == old == checkpoint.size:  # as version 1.0.0 of the protocol has it; later ones say 422
            raise WitnessAhead(witness.name, f"it has cosigned another tree of size {old}: a fork")
        old = named
        if old > checkpoint.size:
            problem = (
                f"it has cosigned size {old}, and this is {checkpoint.size}: an older copy was put back, or a fork"
            )
            raise WitnessAhead(witness.name, problem, old)
    raise WitnessRefused(witness.name, "it names another size each time it is asked")


def newest_cosigned(witness: TrustedWitness, origin: str, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """The newest checkpoint of a log that a witness has cosigned, as it says: a note, which the caller opens.

    Raises:
        WitnessSilent: it cannot be reached, answers too late, or does not say.
        WitnessRefused: it has cosigned nothing of this log.
    """
    path = f"{sha256(origin.encode()).hexdigest()}/checkpoint"
    status, body = _asked(witness, path, None, timeout_s)
    if status == HTTPStatus.OK:
        return body
    problem = f"HTTP {status}: {_quoted(body)}"
    raise (
        WitnessRefused(witness.name, problem)
        if status == HTTPStatus.NOT_FOUND
        else WitnessSilent(witness.name, problem)
    )


def _post(witness: TrustedWitness, body: bytes, timeout_s: float) -> tuple[int, bytes]:
    return _asked(witness, "add-checkpoint", body, timeout_s)


def _asked(witness: TrustedWitness, path: str, body: bytes | None, timeout_s: float) -> tuple[int, bytes]:
    """POST a body, or GET where there is none."""
    url = f"{witness.url.rstrip('/')}/{path}"
    if not url.startswith(("http://", "https://")):
        raise WitnessSilent(witness.name, f"its URL is neither http nor https: {witness.url}")
    headers = {"Content-Type": "text/plain; charset=utf-8"} if body is not None else {}
    request = Request(url, data=body, headers=headers, method="GET" if body is None else "POST")  # noqa: S310  the schemes are those above
    try:
        try:
            reply = build_opener(_NoRedirects).open(request, timeout=timeout_s)
        except HTTPError as error:
            reply = error
        with reply:
            return reply.status, reply.read(NOTE_BYTES_MAX)
    except (HTTPException, OSError, ValueError) as error:  # URLError is an OSError
        raise WitnessSilent(witness.name, str(getattr(error, "reason", error))) from error


def _size(body: bytes, witness: TrustedWitness) -> int:
    text = body.removesuffix(b"\n").decode("ascii", "replace")
    if not (text.isascii() and text.isdigit()) or len(text) > SIZE_DIGITS_MAX:
        raise WitnessSilent(witness.name, "it says 409 without the size that it has cosigned")
    return int(text)


def _verified(note: bytes, body: bytes, witness: TrustedWitness) -> str:
    """The line of this witness among what it answered. Others' are ignored, as are those by unknown keys.

    One without a time is none: it would not say that this is the largest tree the witness has seen.
    """
    text = note.partition(b"\n\n")[0] + b"\n\n"
    try:
        [(key, signature), *_] = open_note(text + body, [witness.key]).signatures
    except (NoteError, ValueError) as error:
        raise WitnessRefused(witness.name, f"its answer is no cosignature of its own: {error}") from error
    if time_of(signature) == 0:
        raise WitnessRefused(witness.name, "its cosignature has no time")
    return signature_line(key.name, key.id, signature)


def _quoted(body: bytes) -> str:
    return "".join(char for char in body[:200].decode("utf-8", "replace") if char.isprintable())


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
