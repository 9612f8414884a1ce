"""The lab on one machine: implements `Lab` with real gateways, which are started when first asked for.

A gateway serves one model version under one policy, in a process of its own. Its accounts are handed out once: who
opens an oracle gets accounts that nobody had before, so no screen remembers them; when they run out, a new gateway
takes the place of the old one. Beyond GATEWAYS_MAX, those that nobody has open are ended, the longest unused first.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import grpc

from defenses.lab.attack import ACCOUNTS_MAX, Oracle, Sample, Size, Split
from gateway.tools.init.init import RELEASE_KEY
from gateway.tools.lab.models import BundleModel, Rows
from gateway.tools.lab.oracle import GrpcOracle
from gateway.tools.lab.place import BARE, Accounts, make_place, model_policy, watched
from gateway.tools.local import Local, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GATEWAYS_MAX: Final = 2
TENANTS: Final = {Size.SMOKE: 40, Size.FULL: 400}
PER_TENANT: Final = 10
CHANNEL_OPTIONS = (("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1))


class LabExhausted(Exception):
    """An experiment wants more accounts at a time than a gateway of the lab has."""


class Teller(Protocol):
    """Who is told how far an experiment is."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


@dataclass(slots=True)
class _Standing:
    """A running gateway, how many of its tenants are taken, and how many oracles are open on it."""

    gateway: Local
    accounts: Accounts
    stop: ExitStack
    taken: int = 0
    open: int = 0


class LocalLab:
    """See the module. Close it, or use it as a context manager: gateways end with it.

    Args:
        size: smoke or full.
        directory: scratch that stays; made when it is absent.
        bundles: the models, with `stockade-release.pub` beside them.
        policy: by model, its part of the policy under test, as it stands in policy.yaml.
        data: where Fashion-MNIST is; None: where Debian puts it, or the test images that come with the project.
        tell: who is told how far it is.
    """

    def __init__(
        self,
        size: Size,
        directory: Path,
        *,
        bundles: Path,
        policy: Mapping[str, Mapping[str, Any]],
        data: Path | None,
        tell: Teller,
    ) -> None:
        self.size = size
        self.directory = directory
        self.tell = tell
        self._bundles, self._policy = bundles, policy
        self._rows = Rows(data)
        self._models: dict[tuple[str, str], BundleModel] = {}
        self._standing: OrderedDict[str, _Standing] = OrderedDict()
        self.directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all gateways and take their directories away."""
        while self._standing:
            self._standing.popitem()[1].stop.close()

    def model(self, name: str, version: str) -> BundleModel:
        key = name, version
        if key not in self._models:
            self._models[key] = BundleModel(self._bundles / name / version, self._bundles / RELEASE_KEY)
        return self._models[key]

    def rows(self, model: str, split: Split, count: int, seed: int) -> Sample:
        return self._rows.draw(model, split, count, seed)

    @contextmanager
    def oracle(
        self,
        name: str,
        version: str,
        *,
        defended: bool,
        accounts: int = 1,
        tenants: int = 1,
        changes: Mapping[str, Any] | None = None,
    ) -> Iterator[Oracle]:
        """See `Lab`. ValueError for more accounts than one attacker may have here."""
        if not 1 <= tenants <= accounts <= ACCOUNTS_MAX or accounts > tenants * PER_TENANT:
            raise ValueError(f"{accounts} accounts in {tenants} tenants; at most {PER_TENANT} in each")
        laid_over = {**(changes or {}), **({} if defended else BARE)}
        policy = model_policy(watched(self._policy[name], self._bundles / name / version), version, laid_over)
        standing = self._gateway(name, policy, tenants)
        first = standing.taken
        standing.taken += tenants
        keys = [standing.accounts.keys[first + place % tenants][place // tenants] for place in range(accounts)]
        authority = (standing.gateway.directory / "tls" / "ca.crt").read_bytes()
        known, address = self.model(name, version), standing.gateway.addresses["data"]
        credentials = grpc.ssl_channel_credentials(authority)
        standing.open += 1
        try:
            with grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS) as channel:
                yield GrpcOracle(
                    channel,
                    keys,
                    model=name,
                    version=version,
                    tensor=known.tensor,
                    classes=known.classes,
                )
        finally:
            standing.open -= 1

    def _gateway(self, name: str, policy: Mapping[str, Any], tenants: int) -> _Standing:
        """Return the gateway of this policy that still has tenants to give, started if need be."""
        key = json.dumps([name, policy], sort_keys=True)
        there = self._standing.get(key)
        if there is not None and there.taken + tenants > len(there.accounts.keys):
            if there.open:
                raise LabExhausted(f"{len(there.accounts.keys)} tenants are taken while an oracle of theirs is open")
            self._standing.pop(key).stop.close()
            there = None
        if there is None:
            self._make_room()
            there = self._standing[key] = self._start(name, policy)
        self._standing.move_to_end(key)
        return there

    def _make_room(self) -> None:
        idle = [key for key, one in self._standing.items() if not one.open]
        for key in idle[: max(0, len(self._standing) - GATEWAYS_MAX + 1)]:
            self._standing.pop(key).stop.close()

    def _start(self, name: str, policy: Mapping[str, Any]) -> _Standing:
        with ExitStack() as stop:
            scratch = Path(stop.enter_context(tempfile.TemporaryDirectory(prefix="stockade-lab-")))
            home = scratch / "gateway"
            accounts = make_place(
                home,
                self._bundles,
                name,
                policy,
                tenants=TENANTS[self.size],
                per_tenant=PER_TENANT,
                random_bytes=os.urandom,
                now=datetime.now(UTC).replace(microsecond=0),
            )
            gateway = stop.enter_context(serving(home))
            return _Standing(gateway, accounts, stop.pop_all())
