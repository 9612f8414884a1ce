"""The table of measures: each verb under `stockade bench`, what it needs, and the function that measures.

Its options stand in `gateway.cli.bench`.
Light: what a verb needs is imported when it runs. runner.py runs them all: it prepares a workspace, hands the function
a `Bench`, and writes and prints the `Result`. docs/reference/benchmarks.md says what is measured and how.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from gateway.tools.terminal import fail

HERE = "gateway.tools.bench"


@dataclass(frozen=True, slots=True)
class Measure:
    """One verb. `function` is `module:name` below this package; `known` likewise names what `--targets` may list.

    `load`: it needs h2load. `private`: it runs in a network of its own where it may make one. A measure takes a `Bench`
    and returns a `Result`; `plain` is a function of the options alone, which returns the exit code.
    """

    function: str
    load: bool = False
    private: bool = False
    plain: bool = False
    known: tuple[str, str, str] | None = None

    def run(self, options: SimpleNamespace) -> int:
        """The verb. Returns its exit code: 2 when nothing can be measured."""
        if self.known is not None:
            attribute, noun, source = self.known
            known = _load(source)
            if unknown := [name for name in getattr(options, attribute) or () if name not in known]:
                return fail(f"no {noun} is called {', '.join(unknown)}; there are {', '.join(known)}")
        function = _load(self.function)
        if self.plain:
            return int(function(options))
        return int(_load("runner:run_measure")(function, options, load=self.load, private=self.private))


MEASURES = {
    "serve": Measure("serve:serve", load=True, private=True, known=("targets", "target", "targets:TARGETS")),
    "units": Measure("units:units", load=True, private=True),
    "memory": Measure("watches:memory", load=True, private=True),
    "edge": Measure("watches:edge"),
    "screens": Measure("watches:screens", private=True),
    "models": Measure("models:models", known=("only", "part", "models:PARTS")),
    "audit": Measure("audit:audit"),
    "verify": Measure("audit:verify"),
    "peers": Measure("peers:run", plain=True, known=("only", "peer", "peers:PEERS")),
}


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"{HERE}.{module}"), name)
