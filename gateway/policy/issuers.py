"""The key sources of the token issuers, which live longer than a policy: a reload does not forget an issuer's keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.auth.jwt import Issuer
from gateway.auth.key_loader import FILE_REFRESH_MS, URL_REFRESH_MS, file_loader, https_loader
from gateway.auth.key_source import KeySource

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.policy.policy import Issuer as IssuerPolicy


def issuer_of(name: str, issuer: IssuerPolicy, keys: KeySource) -> Issuer:
    """Return an issuer of a policy with where its keys come from."""
    return Issuer(
        name=name,
        issuer=issuer.issuer,
        audience=issuer.audience,
        algorithms=frozenset(issuer.algorithms),
        keys=keys,
    )


def without_keys(policy: Mapping[str, IssuerPolicy]) -> list[Issuer]:
    """Return the issuers of a policy that is only looked at: no key is read, no URL is asked, no thread is started."""
    return [issuer_of(name, issuer, KeySource(bytes)) for name, issuer in policy.items()]


class Issuers:
    """Opens a source for each place that keys come from, once. `base` is what relative paths are relative to."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._sources: dict[str, KeySource] = {}

    def of(self, policy: Mapping[str, IssuerPolicy]) -> list[Issuer]:
        """Return the issuers of a policy. Keys in a file are read now, those behind a URL by a thread of their own."""
        return [issuer_of(name, issuer, self._source(issuer)) for name, issuer in policy.items()]

    def close(self) -> None:
        """End all threads."""
        for source in self._sources.values():
            source.close()

    def _source(self, issuer: IssuerPolicy) -> KeySource:
        place = issuer.url_or_file
        if place not in self._sources:
            if issuer.jwks_url is not None:
                source = KeySource(https_loader(issuer.jwks_url), refresh_ms=URL_REFRESH_MS)
            else:
                source = KeySource(file_loader(self._base / place), refresh_ms=FILE_REFRESH_MS)
                source.refresh()
            source.start()
            self._sources[place] = source
        return self._sources[place]
