"""Paths, addresses and names in a configuration: how they are written, and what is wrong with those that are not so."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

from gateway.config.units import Text
from ops.audit.log.epochs import is_first

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_OTLP = re.compile(r"https?://(?P<address>[^/@]+)/?", re.ASCII)
_REDIS = re.compile(r"unix:/[^\0]{1,100}|rediss?://(?P<address>[^/@]+)(/[0-9]{1,3})?", re.ASCII)
_ORIGIN = re.compile(r"[a-z0-9][a-z0-9._-]*(/[A-Za-z0-9._~-]+)*", re.ASCII)
ORIGIN_CHARACTERS_MAX = 244
"""Witnesses sign origins of up to 255 bytes (C2SP tlog-cosignature), and `/epoch-9999` may follow."""
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*{_LABEL}", re.ASCII)


def is_host(text: str) -> bool:
    """Whether it is an IP address, without brackets, or a name of the DNS (RFC 1123): no name ends in a number."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _NAME.fullmatch(text) is not None and not text.rpartition(".")[2].isdigit()
    return "%" not in text  # a zone is this machine's alone


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name can resolve to anything


def _resolve(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise ValueError("is an empty path; name a file, or leave the key out")
    return os.path.normpath((info.context or {}).get("directory", Path()) / value)


def valid_address(value: object) -> str:
    """An address with its port, if it is one. Raises ValueError."""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if not isinstance(value, str) or match is None or int(match["port"]) > 65_535:
        raise ValueError(f'{value!r} is not an address; write "127.0.0.1:8001", "[::1]:8001" or "name:8001"')
    if match["v6"] is not None:
        try:
            ipaddress.IPv6Address(match["v6"])
        except ValueError:
            raise ValueError(f'{value!r} is not an address; "{match["v6"]}" is not IPv6') from None
    elif not is_host(match["host"]):
        raise ValueError(f'{value!r} is not an address; "{match["host"]}" is neither IPv4 nor a name')
    return value


def _otlp(value: object) -> object:
    match = _OTLP.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('is not an OTLP endpoint; write "https://name:4317" or "http://127.0.0.1:4317"')
    valid_address(match["address"])
    return value


def _redis(value: object) -> object:
    match = _REDIS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        problem = "is not where a Redis is, or says more than that"
        raise ValueError(f'{problem}; write "rediss://name:6379", "redis://127.0.0.1:6379/0" or "unix:/run/redis.sock"')
    if match["address"] is not None:
        valid_address(match["address"])
    return value


def _endpoint(value: object) -> str:
    match = _OTLP.fullmatch(value) if isinstance(value, str) else None
    if not isinstance(value, str) or match is None:
        raise ValueError("is not the address of an object store; write https://objects.example.org:443")
    valid_address(match["address"])
    return value.removesuffix("/")


def valid_origin(value: object) -> str:
    """The name of a log, if it is one. Raises ValueError."""
    if not isinstance(value, str) or _ORIGIN.fullmatch(value) is None or len(value) > ORIGIN_CHARACTERS_MAX:
        raise ValueError(
            f'{value!r} is not an origin; write a name without spaces or "+", such as "example.org/gateway-1"'
        )
    if not is_first(value):
        raise ValueError(
            f"{value!r} is not an origin: epochs of a log are called so; leave out what follows the last /"
        )
    return value


FilePath = Annotated[
    Path,
    BeforeValidator(_resolve),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "description": "A path; a relative one is relative to the file it stands in."}),
]
Address = Annotated[
    str,
    BeforeValidator(valid_address),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8001", "[::1]:8001"]}),
]
OtlpEndpoint = Annotated[
    str, BeforeValidator(_otlp), WithJsonSchema({"type": "string", "examples": ["http://127.0.0.1:4317"]})
]
RedisUrl = Annotated[
    str,
    BeforeValidator(_redis),
    WithJsonSchema({"type": "string", "examples": ["rediss://redis.example.org:6379", "unix:/run/redis/redis.sock"]}),
]
StoreUrl = Annotated[
    str,
    Text(
        r"(s3|gs|az)://[A-Za-z0-9._-]{1,255}(/[A-Za-z0-9._-]+){0,16}/?|file:///[^\0?#%]{1,1000}", "s3://bucket/prefix"
    ),
]
StoreEndpoint = Annotated[str, BeforeValidator(_endpoint), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
Origin = Annotated[
    str, BeforeValidator(valid_origin), WithJsonSchema({"type": "string", "maxLength": ORIGIN_CHARACTERS_MAX})
]
