"""What an account sees of a gateway, over gRPC: an `Oracle` of the lab.

Each row is a request of its own. Several are on the way at once where a call asks for several, in order on one
connection; a call of one row waits for its answer, as an attack that adapts does. What a screen did is read from the
trailer that the lab's policy reveals. A gateway that is not there, or is overloaded, is no defense: it is asked again,
and then the lab ends.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np

from defenses.lab.attack import ROWS_PER_ASK_MAX, Answers, Reason, Refused
from stockade.open_inference import grpc_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S: Final = 60.0
IN_FLIGHT: Final = 64
TRIES: Final = 5
PAUSE_S: Final = 0.2
PREDICTION: Final = "probabilities"
VERDICT: Final = "x-stockade-verdict"
ALLOW: Final = "allow"

_REASONS = {
    "INPUT_REJECTED": Reason.REFUSED,
    "RATE_LIMITED": Reason.RATE_LIMITED,
    "QUOTA_EXCEEDED": Reason.RATE_LIMITED,
    "PROOF_OF_WORK_WANTED": Reason.PROOF_OF_WORK,
}
_AGAIN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class GatewayGone(Exception):
    """The gateway gives no answer that says anything about the defenses. The message is what it said."""


class GrpcOracle:
    """Implements Oracle over one channel, which the caller closes."""

    def __init__(
        self,
        channel: grpc.Channel,
        keys: Sequence[str],
        *,
        model: str,
        version: str,
        tensor: str,
        classes: int,
    ) -> None:
        self.accounts = len(keys)
        self._call: Any = channel.unary_unary(METHOD)
        self._credentials = [(("authorization", f"Bearer {key}"),) for key in keys]
        self._model, self._version, self._tensor, self._classes = model, version, tensor, classes

    def ask(self, rows: NDArray[np.float32], account: int = 0) -> Answers:
        """Ask row by row; see `Oracle`.

        Raises:
            Refused: not one row was answered.
            GatewayGone: the gateway did not answer at all.
        """
        if not 1 <= len(rows) <= ROWS_PER_ASK_MAX:
            raise ValueError(f"{len(rows)} rows; 1 to {ROWS_PER_ASK_MAX} may be asked at once")
        metadata = self._credentials[account]
        found = _Found(len(rows), self._classes)
        waiting: deque[tuple[int, bytes, Any]] = deque()
        for number, row in enumerate(np.ascontiguousarray(rows, np.float32)):
            if len(waiting) >= IN_FLIGHT:
                self._take(found, waiting.popleft(), metadata)
            body = self._request(row)
            waiting.append((number, body, self._call.future(body, metadata=metadata, timeout=TIMEOUT_S)))
        while waiting:
            self._take(found, waiting.popleft(), metadata)
        return found.answers()

    def _request(self, row: NDArray[np.float32]) -> bytes:
        request = pb.ModelInferRequest(
            model_name=self._model, model_version=self._version, raw_input_contents=[row.tobytes()]
        )
        request.inputs.add(name=self._tensor, datatype="FP32", shape=(1, *row.shape))
        request.outputs.add(name=PREDICTION)
        return bytes(request.SerializeToString())

    def _take(self, found: _Found, one: tuple[int, bytes, Any], metadata: Any) -> None:
        number, body, call = one
        tries = 0
        while True:
            try:
                reply = call.result()
            except grpc.RpcError as refusal:
                reason = _reason(refusal)
                if reason is not None:
                    found.refused(number, reason)
                    return
                tries += 1
                if tries == TRIES or refusal.code() not in _AGAIN:
                    raise GatewayGone(f"{refusal.code().name}: {refusal.details()}") from refusal
                time.sleep(PAUSE_S * tries)
                call = self._call.future(body, metadata=metadata, timeout=TIMEOUT_S)
            else:
                told = {pair[0]: pair[1] for pair in call.trailing_metadata() or ()}
                reply = pb.ModelInferResponse.FromString(reply)
                found.answered(number, reply, acted=told.get(VERDICT, ALLOW) != ALLOW)
                return


def _reason(refusal: Any) -> Reason | None:
    """Return why a row was refused, None where the gateway could not do what it was asked."""
    word = str(refusal.details() or "").removeprefix("[").partition("]")[0]
    if word in _REASONS:
        return _REASONS[word]
    return Reason.INVALID if refusal.code() == grpc.StatusCode.INVALID_ARGUMENT else None


class _Found:
    """The answers of one call, as they come."""

    def __init__(self, rows: int, classes: int) -> None:
        self._probabilities = np.full((rows, classes), np.nan, np.float32)
        self._answered = np.zeros(rows, np.bool_)
        self._acted = np.zeros(rows, np.bool_)
        self._reasons: dict[int, Reason] = {}

    def answered(self, number: int, reply: pb.ModelInferResponse, *, acted: bool) -> None:
        names = [output.name for output in reply.outputs]
        raw = reply.raw_output_contents[names.index(PREDICTION)]
        self._probabilities[number] = np.frombuffer(raw, np.float32)
        self._answered[number] = True
        self._acted[number] = acted

    def refused(self, number: int, reason: Reason) -> None:
        self._reasons[number] = reason
        self._acted[number] = True

    def answers(self) -> Answers:
        if not self._answered.any():
            raise Refused(self._reasons[min(self._reasons)])
        labels = np.where(self._answered, np.nan_to_num(self._probabilities, nan=-1.0).argmax(axis=1), -1)
        return Answers(self._probabilities, labels.astype(np.int64), self._answered, self._acted)
