"""Shared limits as the two files describe them, put together. redis-py is imported only where they are configured."""

from __future__ import annotations

import random
import ssl
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gateway.admission.shared import SharedLimiter
from gateway.config.document import ConfigRejected

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.admission.memory import MemoryLimiter
    from gateway.config.config import Config, SharedLimits
    from gateway.policy.policy import Policy
    from ops.process.logging import Log

MISSING_EXTRA = "needs the extra `redis`; run `pip install 'stockade[redis]'`, or remove `shared_limits`"
PASSWORD_BYTES_MAX = 4096


def shares_limits(config: Config) -> bool:
    """Say whether the workers of this configuration take from limits that they share."""
    return config.shared_limits is not None and not config.unsafe_unprotected


def installed() -> bool:
    """Say whether the extra is there, without importing it."""
    return find_spec("redis") is not None


def password_in(path: Path) -> str:
    """Return the password in a file. ValueError, with a sentence, when there is none."""
    text = path.read_bytes()[: PASSWORD_BYTES_MAX + 1].decode("utf-8", "strict").removesuffix("\n").removesuffix("\r")
    if not text or len(text) > PASSWORD_BYTES_MAX or "\n" in text:
        raise ValueError(f"{path} does not hold one line with a password")
    return text


async def open_shared(config: Config, pepper: bytes, memory: MemoryLimiter, log: Log) -> SharedLimiter:
    """Return the limiter that shares, after one attempt to reach Redis; it serves without, as the policy says.

    Raises:
        ConfigRejected: the extra is missing, or a file is not what it should be.
    """
    shared = config.shared_limits
    assert shared is not None, "asked for where limits are shared"
    if not installed():
        raise ConfigRejected([f"shared_limits: {MISSING_EXTRA}"])
    from gateway.admission.redis import RedisLedger, connections, script_text

    require_files(shared)
    try:
        password = password_in(shared.password_file) if shared.password_file is not None else None
    except (OSError, ValueError) as problem:
        raise ConfigRejected([f"shared_limits.password_file: {problem}"]) from None
    connection = connections(
        shared.url,
        username=shared.username,
        password=password,
        ca=text_of(shared.ca),
        certificate=text_of(shared.certificate),
        key=text_of(shared.key),
    )
    ledger = RedisLedger(
        connection,
        namespace=shared.namespace,
        secret=pepper,
        timeout_s=shared.timeout_ms / 1000,
        script=script_text(),
    )
    jitter = random.SystemRandom().random
    limiter = SharedLimiter(ledger, memory, clock_ns=time.monotonic_ns, jitter=jitter, log=log)
    await limiter.start()
    return limiter


def require_files(shared: SharedLimits) -> None:
    """Raise ConfigRejected when TLS could never work with these files: no Redis would be to blame."""
    try:
        context = ssl.create_default_context(cafile=text_of(shared.ca))
        if shared.certificate is not None:
            context.load_cert_chain(shared.certificate, shared.key)
    except OSError as problem:  # ssl's own errors are OSErrors too
        raise ConfigRejected([f"shared_limits: the certificates cannot be used ({problem})"]) from None


def text_of(path: Path | None) -> str | None:
    return None if path is None else str(path)


def worker_share(policy: Policy, workers: int) -> float | None:
    """Return what one of a gateway's workers may admit of each limit while Redis is away; None: nothing."""
    share = policy.shared_limits.share
    return None if share is None else share / workers
