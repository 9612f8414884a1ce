"""Entries as a gateway writes them."""

from hashlib import sha256
from typing import Any

from ops.audit.log.entry import canonical


def number_id(number: int) -> str:
    return sha256(b"id %d" % number).hexdigest()[:32]


def request(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A served request with every field that is not a payload."""
    entry: dict[str, Any] = {
        "auth": {"credential": "kiosk-7-a", "method": "api_key", "principal": "ab" * 16, "tenant": "store-7"},
        "batch": {"id": 1, "padded": 64, "position": 3, "rows": 60, "size": 60},
        "build": "0.1.0",
        "config": "c0" * 32,
        "deadline_us": 100_000,
        "decision": "allow",
        "gateway": "host/0",
        "id": number_id(number),
        "kind": "served",
        "limits": [{"decision": "admit", "rule": "default", "tokens": 10}],
        "method": "/inference.GRPCInferenceService/ModelInfer",
        "model": {"digest": "d0" * 32, "engine": "inprocess", "name": "kiosk", "version": "1"},
        "peer": "ipv4:192.0.2.7:50000",
        "policy": "e0" * 32,
        "reason": "OK",
        "rows": 1,
        "screens": [
            {
                "digest": "f0" * 32,
                "mode": "enforce",
                "name": "evidence",
                "p_micro": 500_000,
                "score_micro": -123,
                "technique": "AML.T0015",
                "threshold_micro": 1000,
                "verdict": "pass",
            }
        ],
        "seed": 7,
        "status": 0,
        "time_ns": str(1_800_000_000_000_000_000 + number),
        "timings_us": {"admit": 12, "auth": 10, "total": 800},
        "trace": "0a" * 16,
        "v": 1,
    }
    return {**entry, **changes}


def small(number: int = 0, **changes: Any) -> bytes:
    """A refusal with nothing optional, as bytes."""
    fields = ("build", "config", "gateway", "id", "method", "peer", "policy", "time_ns", "v")
    full = request(number)
    entry = {name: full[name] for name in fields}
    return canonical(
        {**entry, "decision": "refuse", "kind": "refused", "reason": "MODEL_UNKNOWN", "status": 5, **changes}
    )


def captured(number: int, *payloads: bytes) -> bytes:
    """A served request that names one or two payload ciphertexts."""
    names = ("request", "response")
    sealed = {
        name: {"bytes": len(each), "ciphertext_sha256": sha256(each).hexdigest(), "commitment": "cc" * 32}
        for name, each in zip(names, payloads, strict=False)
    }
    return canonical(request(number, payload={"key": "aa" * 16, **sealed}))


def sized(nbytes: int) -> bytes:
    """An entry of exactly so many bytes: its screens have names as long as they need."""
    screen = request()["screens"][0]
    entry = canonical(request(screens=[{**screen, "name": "n", "technique": "t" * 400}] * 16))
    spare = nbytes - len(entry)
    lengths = [1 + min(511, max(spare - 511 * place, 0)) for place in range(16)]
    screens = [{**screen, "name": "n" * length, "technique": "t" * 400} for length in lengths]
    entry = canonical(request(screens=screens))
    assert len(entry) == nbytes
    return entry
