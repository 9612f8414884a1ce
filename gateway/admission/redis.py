"""The ledger of shared limits in Redis (or Valkey): one connection, one script, one round trip for a batch of spends.

Rules:
- A batch is one EVALSHA and has one answer. Where the server has forgotten the script (NOSCRIPT) nothing was charged,
  so it is sent again, as text; nothing else is ever sent twice.
- Whatever goes wrong closes the connection: an answer that comes late can never be taken for that of another question.
- The name of a bucket in Redis is a keyed hash: who can read Redis learns how many callers there are, and not who. The
  key comes from the pepper, which gateways that share a policy have in common.
- The answer is checked as what it is, bytes from somewhere else, before anybody believes it.

The only module that knows redis-py (the extra `redis`); imported when shared limits are configured. The server is Redis
or Valkey, 7 or newer, alone or with replicas; not a cluster, where the keys of one spend would lie apart.
See https://redis.io/docs/latest/develop/programmability/eval-intro/.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from functools import lru_cache
from importlib.resources import files
from ssl import SSLError
from typing import TYPE_CHECKING, Any

import msgspec
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    NoScriptError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.admission.shared import LedgerFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from gateway.admission.budget import Charges

CONNECT_TIMEOUT_S = 2.0
NAMES_MAX = 262_144
NAME_BYTES = 16
ANSWERS = msgspec.msgpack.Decoder(list[list[int]])


def script_text() -> str:
    """Return the script, as it is shipped beside this module."""
    return files("gateway.admission").joinpath("shared.lua").read_text(encoding="utf-8")


class RedisLedger:
    """Implements `gateway.admission.shared.Ledger`. `connection` makes one that is not connected yet."""

    def __init__(
        self,
        connection: Callable[[], Connection | UnixDomainSocketConnection],
        *,
        namespace: str,
        secret: bytes,
        timeout_s: float,
        script: str,
    ) -> None:
        self._new_connection = connection
        self._connection: Connection | UnixDomainSocketConnection | None = None
        self._timeout_s = timeout_s
        self._script = script
        self._digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()  # what Redis calls it
        hash_key = hmac.digest(secret, b"stockade shared limits", "sha256")

        @lru_cache(maxsize=NAMES_MAX)
        def name_of(key: str) -> bytes:
            hidden = hashlib.blake2b(key.encode(), key=hash_key, digest_size=NAME_BYTES).hexdigest()
            return f"{namespace}:{hidden}".encode()

        self.name_of = name_of

    async def connect(self) -> None:
        """Connect, and prove who we are. The script gets there with the first exchange."""
        await self.close()
        self._connection = self._new_connection()
        connect: Callable[[], Awaitable[None]] = self._connection.connect  # redis-py gives it no types
        await self._within(CONNECT_TIMEOUT_S, connect())

    async def exchange(
        self, spends: Sequence[Charges], known: Iterable[tuple[str, int]] = ()
    ) -> Sequence[Sequence[int]]:
        """Send a batch, and return what became of each spend."""
        connection = self._connection
        if connection is None:
            raise LedgerFailed("unreachable", "there is no connection")
        names, told, charged = self._packed(spends, known)

        async def run() -> Any:
            arguments = (len(names), *names, msgspec.msgpack.encode(told), msgspec.msgpack.encode(charged))
            try:
                return await ask(connection, "EVALSHA", self._digest, *arguments)
            except NoScriptError:
                return await ask(connection, "EVAL", self._script, *arguments)

        reply = await self._within(self._timeout_s, run())
        try:
            return ANSWERS.decode(reply)
        except (msgspec.MsgspecError, TypeError):
            await self.close()
            raise LedgerFailed("wrong-answer", "the answer is not one of the script's") from None

    async def close(self) -> None:
        """Let go of the connection, without waiting for the other side."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    def _packed(
        self, spends: Sequence[Charges], known: Iterable[tuple[str, int]]
    ) -> tuple[list[bytes], list[int], list[list[int]]]:
        """Return the names of all buckets, once each, and what the script is told with numbers in their place."""
        numbers: dict[str, int] = {}

        def number(key: str) -> int:
            return numbers.setdefault(key, len(numbers) + 1)

        told = [value for key, debt_ns in known for value in (number(key), debt_ns)]
        charged = [
            [
                value
                for bucket, cost in spend
                for value in (
                    number(bucket.key),
                    min(cost * bucket.rule.interval_ns, bucket.rule.burst_ns + 1),
                    bucket.rule.burst_ns,
                )
            ]
            for spend in spends
        ]
        return [self.name_of(key) for key in numbers], told, charged

    async def _within(self, timeout_s: float, doing: Any) -> Any:
        """Return what `doing` does, or close the connection and say in our words what went wrong."""
        try:
            async with asyncio.timeout(timeout_s):
                return await doing
        except BaseException as problem:
            await self.close()
            if (failure := failure_of(problem)) is None:
                raise
            raise failure from problem


async def ask(connection: Connection | UnixDomainSocketConnection, *command: Any) -> Any:
    """Send one command and return its answer."""
    await connection.send_command(*command)
    return await connection.read_response()


MEANINGS: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    (
        (AuthenticationError, AuthorizationError, NoPermissionError),
        "credentials",
        "the server does not accept user and password, or what they may do",
    ),
    ((SSLError,), "tls", "the server's certificate is not trusted, or it does not speak TLS"),
    ((TimeoutError, RedisTimeoutError), "timeout", "the server did not answer in time"),
    ((ResponseError,), "refused", "the server does not run the script: a replica, out of memory, loading, or too old"),
    ((RedisConnectionError, OSError), "unreachable", "the server cannot be reached, or hung up"),
    ((Exception,), "wrong-answer", "what answers does not speak as Redis does"),
)
"""What an exception of redis-py, or one that led to it, means to us. The first that fits."""


def failure_of(problem: BaseException) -> LedgerFailed | None:
    """Return an exception in our words; None for what is no failure of the ledger, such as a cancellation."""
    if isinstance(problem, LedgerFailed):
        return problem
    if not isinstance(problem, Exception):
        return None
    chain: list[BaseException] = []
    link: BaseException | None = problem
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for kinds, kind, sentence in MEANINGS:
        if any(isinstance(each, kinds) for each in chain):
            return LedgerFailed(kind, sentence)
    raise AssertionError("the last meaning fits everything")


def connections(
    url: str, *, username: str | None, password: str | None, ca: str | None, certificate: str | None, key: str | None
) -> Callable[[], Connection | UnixDomainSocketConnection]:
    """Return what makes connections to "redis://host:port", "rediss://host:port/database" or "unix:/path"."""
    common: dict[str, Any] = {"username": username, "password": password, "protocol": 2, "socket_timeout": None}
    scheme, _, rest = url.partition(":")
    if scheme == "unix":
        return lambda: UnixDomainSocketConnection(path=rest, **common)
    address, _, database = rest.removeprefix("//").partition("/")
    host, _, port = address.rpartition(":")
    common |= {"host": host.strip("[]"), "port": int(port), "db": int(database or 0)}
    if scheme == "redis":
        return lambda: Connection(**common)
    return lambda: SSLConnection(ssl_ca_certs=ca, ssl_certfile=certificate, ssl_keyfile=key, **common)
