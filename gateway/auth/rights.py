"""What a principal may do: principal x model x version x method, compiled from the policy's roles into dictionaries.

A right is granted by any role of the principal; nothing is granted by default. "*" stands for every method, model or
version, also for those that come later; there are no other patterns. Each question is three look-ups and a membership
test, whatever the number of roles, and the same ones whether the answer is yes or no.

A model that does not exist and one that is not yours are the same refusal, found in the same way
(`gateway.request.pipeline.route`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.auth.errors import IdentityRejected
from gateway.auth.principal import Principal
from gateway.errors import MethodForbidden

ANY = "*"


@dataclass(frozen=True, slots=True)
class Grant:
    """These methods, on these models, in these versions. A method that is about no model needs no models."""

    methods: tuple[str, ...]
    models: tuple[str, ...] = ()
    versions: tuple[str, ...] = (ANY,)


@dataclass(slots=True)
class _Models:
    """What one method may touch. `exact` already holds what `rest` grants, so the first hit is the answer."""

    exact: dict[str, frozenset[str]] = field(default_factory=dict)
    rest: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Table:
    exact: dict[str, _Models] = field(default_factory=dict)
    rest: _Models | None = None


_NOTHING = _Table()


class Rights:
    """The compiled table. `roles`: what each role grants; `principals`: the roles of each principal."""

    def __init__(self, roles: Mapping[str, Iterable[Grant]], principals: Mapping[str, frozenset[str]]) -> None:
        grants = {role: tuple(given) for role, given in roles.items()}
        for role, given in grants.items():
            _require_plain(role, given)
        tables: dict[frozenset[str], _Table] = {}  # principals with the same roles share one table
        self._tables: dict[str, _Table] = {}
        for name, held in principals.items():
            unknown = held - grants.keys()
            if unknown:
                raise IdentityRejected(name, f"has roles that do not exist: {', '.join(sorted(unknown))}")
            if held not in tables:
                tables[held] = _compile([grant for role in sorted(held) for grant in grants[role]])
            self._tables[name] = tables[held]

    def may_call(self, principal: Principal, method: str) -> bool:
        """Whether any right to this method is held, on whatever model."""
        table = self._tables.get(principal.name, _NOTHING)
        return table.exact.get(method, table.rest) is not None

    def may_use(self, principal: Principal, method: str, model: str, version: str) -> bool:
        """Whether the method may be called on this version of this model. `version` is the one that was resolved."""
        return self.permits(principal.name, method, model, version)

    def permits(self, principal: str, method: str, model: str, version: str) -> bool:
        """Whether the principal of this name may do so."""
        table = self._tables.get(principal, _NOTHING)
        models = table.exact.get(method, table.rest)
        if models is None:
            return False
        versions = models.exact.get(model, models.rest)
        return version in versions or ANY in versions

    def require_method(self, principal: Principal, method: str) -> None:
        """MethodForbidden unless `may_call`."""
        if not self.may_call(principal, method):
            raise MethodForbidden


def _require_plain(role: str, grants: tuple[Grant, ...]) -> None:
    for grant in grants:
        for name in (*grant.methods, *grant.models, *grant.versions):
            if not name or (ANY in name and name != ANY):
                raise IdentityRejected(role, f'grants {name!r}; write a whole name, or "*" for all')


def _compile(grants: list[Grant]) -> _Table:
    """Fold grants into one table in which every exact entry includes what the wildcards beside it give."""
    methods = {method for grant in grants for method in grant.methods}
    table = _Table()
    for method in sorted(methods):
        models = _models([grant for grant in grants if method in grant.methods or ANY in grant.methods])
        if method == ANY:
            table.rest = models
        else:
            table.exact[method] = models
    return table


def _models(grants: list[Grant]) -> _Models:
    rest = frozenset(version for grant in grants if ANY in grant.models for version in grant.versions)
    named = {model for grant in grants for model in grant.models if model != ANY}
    exact = {
        model: rest.union(*[grant.versions for grant in grants if model in grant.models]) for model in sorted(named)
    }
    return _Models(exact, rest)
