"""What can be wrong with a configuration whose every part is well-formed. Pure; each rule yields all its faults.

The insecure is refused unless its loud name (`unsafe_...`) says that it is meant.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.document import Fault

if TYPE_CHECKING:
    from gateway.config import Config

__all__ = ["RULES"]


def _is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name can resolve to anything


def _addresses(config: Config) -> Iterator[tuple[str, str]]:
    for name in ("data", "data_mtls", "metrics", "admin"):
        address: str | None = getattr(config.listen, name)
        if address is not None:
            yield name, address


def _transport_security(config: Config) -> Iterator[Fault]:
    if config.tls is not None and config.unsafe_plaintext:
        yield Fault(("unsafe_plaintext",), "contradicts `tls`; remove one of the two")
    if config.tls is None and not config.unsafe_plaintext:
        beyond = (
            "" if _is_loopback(config.listen.data) else f", and {config.listen.data} can be reached from other machines"
        )
        advice = "add `tls` (`stockade init` makes certificates), or say `unsafe_plaintext: true`"
        yield Fault(("tls",), f"is missing{beyond}; {advice}")
    if config.listen.metrics and not (_is_loopback(config.listen.metrics) or config.listen.unsafe_metrics_plaintext):
        advice = "use a loopback address, or say `unsafe_metrics_plaintext: true`"
        yield Fault(
            ("listen", "metrics"), f"{config.listen.metrics} shows metrics to other machines without TLS; {advice}"
        )


def _traces(config: Config) -> Iterator[Fault]:
    tracing = config.tracing
    if tracing is None or tracing.unsafe_otlp_plaintext or tracing.otlp_endpoint.startswith("https://"):
        return
    if not _is_loopback(tracing.otlp_endpoint.removeprefix("http://").rstrip("/")):
        advice = "use https or a loopback address, or say `unsafe_otlp_plaintext: true`"
        yield Fault(("tracing", "otlp_endpoint"), f"sends traces to another machine without TLS; {advice}")


def _unprotected(config: Config) -> Iterator[Fault]:
    if config.unsafe_unprotected:
        for name in ("data", "data_mtls"):
            address: str | None = getattr(config.listen, name)
            if address is not None and not _is_loopback(address):
                problem = f"cannot be had while other machines can reach `listen.{name}` ({address})"
                yield Fault(("unsafe_unprotected",), f"{problem}; it is for measuring on one machine")


def _client_certificates(config: Config) -> Iterator[Fault]:
    for name in ("admin", "data_mtls"):
        if getattr(config.listen, name) is None:
            continue
        if config.tls is None:
            yield Fault(
                ("listen", name),
                f"needs client certificates and there is no `tls`; add `tls` or remove `listen.{name}`",
            )
        elif config.tls.client_ca is None:
            yield Fault(
                ("listen", name), "needs client certificates; add `tls.client_ca`, the file of those who issue them"
            )


def _distinct_addresses(config: Config) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    for name, address in _addresses(config):
        if address in seen and not address.endswith(":0"):
            yield Fault(
                ("listen", name), f"{address} is already taken by `listen.{seen[address]}`; give each its own port"
            )
        seen.setdefault(address, name)


def _distinct_files(config: Config) -> Iterator[Fault]:
    seen: dict[Path, str] = {}
    for at, path in config.secret_files():
        if path in seen:
            yield Fault(at, f"is the same file as `{seen[path]}`; a secret serves one purpose")
        seen.setdefault(path, ".".join(at))


def _durable_places(config: Config) -> Iterator[Fault]:
    for name in ("directory", "state_directory", "key_database"):
        path: Path = getattr(config.audit, name)
        if path == config.state_dir or config.state_dir in path.parents:
            yield Fault(("audit", name), "lies in `state_dir`, which may be deleted; keep it elsewhere")
    public, private = config.audit.directory, config.audit.state_directory
    if private == public or public in private.parents:
        yield Fault(("audit", "state_directory"), "lies in `audit.directory`, which auditors get; keep it beside")


def _sizes_agree(config: Config) -> Iterator[Fault]:
    if config.transport.rows_max > config.engine.queue_rows_max:
        problem = (
            f"is larger than `engine.queue_rows_max` ({config.engine.queue_rows_max}); such a request could never run"
        )
        yield Fault(("transport", "rows_max"), problem)
    if config.transport.message_bytes_max > config.engine.queue_bytes_max:
        yield Fault(
            ("transport", "message_max"), "is larger than `engine.queue_bytes_max`; such a request could never run"
        )


RULES: tuple[Callable[[Config], Iterable[Fault]], ...] = (
    _transport_security,
    _traces,
    _unprotected,
    _client_certificates,
    _distinct_addresses,
    _distinct_files,
    _durable_places,
    _sizes_agree,
)
