"""The table of measures: each verb under `stockade bench`, what it needs, its options, and the function that measures.

Light: what a verb needs is imported when it runs. runner.py runs them all: it prepares a workspace, hands the function
a `Bench`, and writes and prints the `Result`. docs/reference/benchmarks.md says what is measured and how.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from gateway.tools.arguments import decimal, seconds, whole
from gateway.tools.bench.peers import PEERS, default_root
from gateway.tools.log_arguments import reaching_stores
from gateway.tools.terminal import fail

COUNT_MAX = 1_000_000_000
HERE = "gateway.tools.bench"
Option = tuple[str, dict[str, Any]]


def option(name: str, text: str, **how: Any) -> Option:
    """One option of a verb; the default stands in its help."""
    default = f" (default: {how['default']})" if isinstance(how.get("default"), int | float) else ""
    return name, {"help": text + default, **how}


def flag(name: str, text: str) -> Option:
    """An option without a value."""
    return name, {"help": text, "action": "store_true"}


def count(name: str, text: str, default: int, most: int = COUNT_MAX) -> Option:
    """An option that is a whole number from 1."""
    return option(name, text, type=whole(1, most), default=default)


def lasting(name: str, text: str, default: float) -> Option:
    """An option in seconds."""
    return option(name, text, type=partial(seconds, least=0.1, most=3600.0), default=default, metavar="SECONDS")


def path(name: str, text: str, metavar: str = "FILE", **how: Any) -> Option:
    """An option that names a file or a directory."""
    return option(name, text, type=Path, metavar=metavar, **how)


def names(name: str, text: str) -> Option:
    """An option that lists names of one kind, checked when the verb runs."""
    return option(name, text, type=lambda given: tuple(each for each in given.split(",") if each), metavar="A,B")


REPORT = (path("--report", "write everything measured as JSON"), flag("--json", "print the report as JSON"))
WORKSPACE = path("--workspace", "a real disk for logs, some GiB (default: /var/tmp)", "DIR")
BUNDLES = path("--bundles", "signed models (default: those of the project)", "DIR")
ROUNDS = count("--rounds", "rounds; each measures everything again", 3)
SECONDS = lasting("--seconds", "length of each measurement", 5.0)
UNITS = "of the dense one of `sparsity`; an expert has 1,024"
QUICK = flag("--quick", "one round, less of everything: a look, not figures to quote")


@dataclass(frozen=True, slots=True)
class Measure:
    """One verb. `function` is `module:name` below this package; `known` likewise names what `--targets` may list.

    `load`: it needs h2load. `private`: it runs in a network of its own where it may make one. A measure takes a `Bench`
    and returns a `Result`; `plain` is a function of the options alone, which returns the exit code.
    """

    help: str
    function: str
    options: tuple[Option, ...]
    load: bool = False
    private: bool = False
    plain: bool = False
    known: tuple[str, str, str] | None = None

    def run(self, options: argparse.Namespace) -> int:
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


MEASURES: dict[str, Measure] = {
    "serve": Measure(
        "compare servers: throughput, latency and CPU time of one prediction",
        "serve:serve",
        (
            names("--targets", "only these (default: all that are installed)"),
            *(ROUNDS, SECONDS, QUICK, *REPORT, BUNDLES, WORKSPACE),
            path("--peers", "where peers are installed", "DIR", default=default_root()),
        ),
        load=True,
        private=True,
        known=("targets", "target", "targets:TARGETS"),
    ),
    "units": Measure(
        "what a request, a second and a tenant cost, by process and by stage",
        "units:units",
        (
            *(ROUNDS, SECONDS, QUICK, *REPORT, BUNDLES, WORKSPACE),
            flag("--tls", "over TLS (default: plaintext, on loopback)"),
        ),
        load=True,
        private=True,
    ),
    "memory": Measure(
        "watch a protected gateway's memory over many requests",
        "watches:memory",
        (count("--requests", "how many", 500_000), *REPORT, BUNDLES, WORKSPACE),
        load=True,
        private=True,
    ),
    "edge": Measure(
        "measure `--profile edge` on one core and within 300 MiB, with its cache",
        "watches:edge",
        (
            count("--requests", "how many", 10_000),
            option("--repeat", "of them asked before", type=decimal(0, 1), default=0.5, metavar="SHARE"),
            *(*REPORT, BUNDLES, WORKSPACE),
        ),
    ),
    "screens": Measure(
        "what all screens together cost a request, and the throughput",
        "watches:screens",
        (
            option("--version", "of the kiosk's model, with its calibrations (default: 3)", default="3"),
            *(ROUNDS, *REPORT, BUNDLES, WORKSPACE),
        ),
        private=True,
    ),
    "models": Measure(
        "what the models are worth, beside what is simpler; it trains, which takes long",
        "models:models",
        (
            path("--keep", "keep figures by part and seed: go on where it stopped", "DIR"),
            names("--only", "of sparsity, clicks, credit, bundles"),
            option("--seeds", "of each part", type=int, choices=[2, 3, 4, 5, 10], default=5),
            option("--units", UNITS, type=int, choices=[16_384, 24_576, 32_768], default=16_384),
            *(QUICK, *REPORT, BUNDLES),
            path("--places", "cities1000.json (default: found or downloaded)"),
            path("--clicks", "ecom.csv.gz (default: found or downloaded)"),
            path("--modeldata", "as of `stockade train payments --data`", "PATH"),
            path("--trusted", "whose signatures count (default: DIR/*.pub)", action="append"),
        ),
        known=("only", "part", "models:PARTS"),
    ),
    "audit": Measure(
        "the audit log on a real disk: append, verify, start after a crash, restore",
        "audit:audit",
        (
            lasting("--seconds", "of appending without payloads", 10.0),
            count("--payloads", "appends with 2 KiB each", 50_000),
            count("--tail-mib", "of log at the crash", 64, most=64),
            count("--records", "to verify and restore", 1_000_000),
            count("--requests", "to replay", 10_000),
            lasting("--overload", "of a flood", 60.0),
            option("--store", "s3://bucket/prefix: copy a log there, and restore it from there", metavar="URL"),
            *(*REPORT, WORKSPACE),
        ),
    ),
    "verify": Measure(
        "time the audit log's verifier on a large log",
        "audit:verify",
        (count("--records", "size of the log", 1_000_000), *REPORT, WORKSPACE),
    ),
    "peers": Measure(
        "say which peers are installed, or install them",
        "peers:run",
        (
            path("--install", "install (default: %(const)s)", "DIR", nargs="?", const=default_root()),
            names("--only", f"of {', '.join(PEERS)}"),
        ),
        plain=True,
        known=("only", "peer", "peers:PEERS"),
    ),
}


def add_verbs(verbs: Any) -> None:
    """Add every measure as a verb of `stockade bench`."""
    for name, measure in MEASURES.items():
        verb = verbs.add_parser(name, help=measure.help, description=f"{measure.help[0].upper()}{measure.help[1:]}.")
        for words, how in measure.options:
            verb.add_argument(words, **how)
        if name == "audit":
            reaching_stores(verb)
        verb.set_defaults(run=measure.run)


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"{HERE}.{module}"), name)
