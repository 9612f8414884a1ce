"""What can be wrong with a configuration whose every part is well-formed. Pure; each rule yields all its faults.

The insecure is refused unless its loud name (`unsafe_...`) says that it is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config.document import Fault
from gateway.config.values import is_loopback

if TYPE_CHECKING:
    from gateway.config.config import Config


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
            "" if is_loopback(config.listen.data) else f", and {config.listen.data} can be reached from other machines"
        )
        advice = "add `tls` (`stockade init` makes certificates), or say `unsafe_plaintext: true`"
        yield Fault(("tls",), f"is missing{beyond}; {advice}")
    if config.listen.metrics and not (is_loopback(config.listen.metrics) or config.listen.unsafe_metrics_plaintext):
        advice = "use a loopback address, or say `unsafe_metrics_plaintext: true`"
        yield Fault(
            ("listen", "metrics"), f"{config.listen.metrics} shows metrics to other machines without TLS; {advice}"
        )


def _traces(config: Config) -> Iterator[Fault]:
    tracing = config.tracing
    if tracing is None or tracing.unsafe_otlp_plaintext or tracing.otlp_endpoint.startswith("https://"):
        return
    if not is_loopback(tracing.otlp_endpoint.removeprefix("http://").rstrip("/")):
        advice = "use https or a loopback address, or say `unsafe_otlp_plaintext: true`"
        yield Fault(("tracing", "otlp_endpoint"), f"sends traces to another machine without TLS; {advice}")


def _unprotected(config: Config) -> Iterator[Fault]:
    if config.unsafe_unprotected:
        for name in ("data", "data_mtls"):
            address: str | None = getattr(config.listen, name)
            if address is not None and not is_loopback(address):
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


def _upstream(config: Config) -> Iterator[Fault]:
    oip, kind = config.engine.oip, config.engine.kind
    if (oip is not None) != (kind == "oip"):
        problem = "is missing, and `engine.kind` is oip; name the servers" if oip is None else "needs `kind: oip`"
        yield Fault(("engine", "oip"), problem)
    if oip is None:
        return
    beyond = [address for address in oip.addresses if not is_loopback(address)]
    if oip.tls is None and beyond and not oip.unsafe_plaintext:
        advice = "add `tls`, or say `unsafe_plaintext: true`"
        yield Fault(("engine", "oip", "addresses"), f"{beyond[0]} is another machine, and there is no TLS; {advice}")
    if oip.tls is None and beyond and oip.token is not None:
        yield Fault(("engine", "oip", "token"), f"would go to {beyond[0]} without TLS; add `tls`")
    if oip.tls is not None and oip.unsafe_plaintext:
        yield Fault(("engine", "oip", "unsafe_plaintext"), "contradicts `tls`; remove one of the two")
    if oip.tls is not None and (oip.tls.certificate is None) != (oip.tls.key is None):
        given, absent = ("certificate", "key") if oip.tls.key is None else ("key", "certificate")
        yield Fault(("engine", "oip", "tls", given), f"is of no use alone; add `{absent}`")
    if len(set(oip.addresses)) != len(oip.addresses):
        yield Fault(("engine", "oip", "addresses"), "names a server twice; leave one of them out")


def _shared_limits(config: Config) -> Iterator[Fault]:
    shared = config.shared_limits
    if shared is None:
        return
    scheme, _, rest = shared.url.partition("://")
    if scheme == "redis" and not shared.unsafe_redis_plaintext and not is_loopback(rest.partition("/")[0]):
        advice = "use rediss:// or a loopback address, or say `unsafe_redis_plaintext: true`"
        yield Fault(("shared_limits", "url"), f"sends limits to another machine without TLS; {advice}")
    for name in ("ca", "certificate"):
        if scheme != "rediss" and getattr(shared, name) is not None:
            yield Fault(("shared_limits", name), "is of no use without TLS; write rediss:// in `url`, or remove it")
    if (shared.certificate is None) != (shared.key is None):
        given, absent = ("certificate", "key") if shared.key is None else ("key", "certificate")
        yield Fault(("shared_limits", given), f"is of no use alone; add `{absent}`")
    if shared.username is not None and shared.password_file is None:
        yield Fault(("shared_limits", "username"), "is of no use alone; add `password_file`")


def _replication(config: Config) -> Iterator[Fault]:
    replication, where = config.audit.replication, ("audit", "replication")
    if replication is None:
        return
    endpoint = replication.endpoint or ""
    beyond = endpoint.startswith("http://") and not is_loopback(endpoint.removeprefix("http://"))
    if beyond and not replication.unsafe_plaintext:
        advice = "use https or a loopback address, or say `unsafe_plaintext: true`"
        yield Fault((*where, "endpoint"), f"sends the log to another machine without TLS; {advice}")
    scheme = replication.url.partition(":")[0]
    if replication.retention_min_ms is not None and scheme != "s3":
        yield Fault((*where, "retention_min"), f"cannot be seen in {scheme}: only S3 tells how it locks; remove it")
    if replication.lag_max_ms is not None and replication.lag_max_ms < 3 * replication.every_ms:
        yield Fault((*where, "lag_max"), "is less than three times `every`, so calls would be refused now and then")


def _cache(config: Config) -> Iterator[Fault]:
    if config.cache is not None and config.engine.kind == "oip":
        problem = "cannot be had with `kind: oip`: a server may change its model, and old answers would be given on"
        yield Fault(("cache",), f"{problem}; remove it")


def _ray(config: Config) -> Iterator[Fault]:
    ray, kind = config.engine.ray, config.engine.kind
    if (ray is not None) != (kind == "ray"):
        problem = (
            "is missing, and `engine.kind` is ray; say where the cluster is" if ray is None else "needs `kind: ray`"
        )
        yield Fault(("engine", "ray"), problem)
    if config.engine.fallback != "none" and kind != "ray":
        yield Fault(("engine", "fallback"), "is of no use without `kind: ray`; remove it")
    if ray is None:
        return
    if not (is_loopback(ray.address) or ray.unsafe_plaintext):
        advice = "say `unsafe_plaintext: true` if nobody else is on that network"
        yield Fault(
            ("engine", "ray", "address"), f"{ray.address} is another machine, and Ray has no TLS here; {advice}"
        )
    if ray.replicas.max < ray.replicas.min:
        yield Fault(("engine", "ray", "replicas", "max"), f"is less than `min` ({ray.replicas.min}); raise it")
    if ray.replicas.target_ongoing > ray.max_ongoing:
        problem = f"is more than `max_ongoing` ({ray.max_ongoing}), so replicas would never be added; lower it"
        yield Fault(("engine", "ray", "replicas", "target_ongoing"), problem)


RULES: tuple[Callable[[Config], Iterable[Fault]], ...] = (
    _transport_security,
    _traces,
    _unprotected,
    _client_certificates,
    _distinct_addresses,
    _distinct_files,
    _durable_places,
    _sizes_agree,
    _upstream,
    _ray,
    _cache,
    _shared_limits,
    _replication,
)
