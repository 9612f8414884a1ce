#!/usr/bin/env python3
"""Writes what the Kubernetes manifests take from elsewhere; with --check, says which files are out of date.

- `stockade.yaml` for each host of an overlay, from one template and the overlay's own sections (`parts.yaml`). A log
  has a name and a key of its own, so hosts cannot share one file.
- `serve-config.yaml`, for an overlay with Ray: the Serve applications of the project's bundles, as
  `stockade ray config` has them, as a patch of the RayService.
- The PrometheusRule, from the rules that Prometheus reads elsewhere (ops/prometheus/rules).

With --out, the files of one overlay are written to another directory: that is how yours are made.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

from gateway.config.load import parse_config
from gateway.models.ray import ray_settings
from gateway.tools.init.init import RELEASE_KEY
from serving.bundles.bundle import load_bundle
from serving.bundles.catalog import find_bundles
from serving.engines.ray.settings import Deployable, applications, serve_config

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "ops/deploy/kubernetes"
RULES = ROOT / "ops/prometheus/rules"
RULES_FILE = MANIFESTS / "components/monitoring/prometheusrule.yaml"
HOST = "stockade"  # the StatefulSet's name, and so the stem of its pods'
REPLICAS_MAX = 512
BUNDLES = ROOT / "bundles"
MOUNTED = Path("/etc/stockade/stockade.yaml")
IN_IMAGE = "/opt/stockade/lib/python3.11/site-packages/gateway/bundles"
RAY_SERVICE = "stockade-ray"
HEAD = "# Written by scripts/generate_kubernetes.py; do not edit.\n"
RULES_HEAD = "# Written by scripts/generate_kubernetes.py from ops/prometheus/rules; do not edit.\n"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay readable."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def configs(parts: str, *, replicas: int, values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name and text of each host's stockade.yaml."""
    template = Template((MANIFESTS / "stockade.yaml.in").read_text(encoding="utf-8"))
    for number in range(replicas):
        host = f"{HOST}-{number}"
        yield f"{host}.yaml", template.substitute(values, host=host, parts=parts)


def prometheus_rule() -> str:
    """The manifest that holds every rule of every file."""
    groups: list[dict[str, Any]] = []
    for file in sorted(RULES.glob("*.yml")):
        groups += yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "stockade", "labels": {"app.kubernetes.io/name": "stockade"}},
        "spec": {"groups": groups},
    }
    return RULES_HEAD + yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=1000)


def serve_patch(config_text: str, bundles: str) -> str | None:
    """The patch of a RayService for this configuration and the project's bundles; None where it has no Ray."""
    config = parse_config(config_text.encode(), MOUNTED)
    if config.engine.ray is None:
        return None
    loaded = [load_bundle(each, [BUNDLES / RELEASE_KEY]) for each in find_bundles(BUNDLES)]
    deployed = [Deployable(one.name, one.version, one.digest, f"{bundles}/{one.name}/{one.version}") for one in loaded]
    plan = serve_config(applications(ray_settings(config), deployed, config.bundles.trusted_keys))
    patch = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": RAY_SERVICE},
        "spec": {"serveConfigV2": yaml.dump(plan, Dumper=_Dumper, sort_keys=False, width=1000)},
    }
    return HEAD + yaml.dump(patch, Dumper=_Dumper, sort_keys=False, width=1000)


def overlays() -> list[Path]:
    """The overlays that bring sections of their own."""
    return sorted(file.parent for file in MANIFESTS.glob("overlays/*/parts.yaml"))


def generate(overlay: Path, options: argparse.Namespace) -> dict[Path, str]:
    """The files of one overlay, by path below its directory."""
    values = {"origin": options.origin, "workers": str(options.workers), "bundles": options.bundles}
    parts = (overlay / "parts.yaml").read_text(encoding="utf-8")
    hosts = dict(configs(parts, replicas=options.replicas, values=values))
    files = {Path("config", name): text for name, text in hosts.items()}
    if (patch := serve_patch(next(iter(hosts.values())), options.bundles)) is not None:
        files[Path("serve-config.yaml")] = patch
    return files


def wanted(options: argparse.Namespace) -> dict[Path, str]:
    """Every file that is to be there."""
    if options.out is not None:
        (overlay,) = (each for each in overlays() if each.name == options.overlay)
        return {options.out / name: text for name, text in generate(overlay, options).items()}
    files = {each / name: text for each in overlays() for name, text in generate(each, options).items()}
    return files | {RULES_FILE: prometheus_rule()}


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Generate what the Kubernetes manifests take from elsewhere.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file is out of date")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write what one overlay needs here instead: yours")
    parser.add_argument("--overlay", choices=[each.name for each in overlays()], default="in-process")
    parser.add_argument("--replicas", type=int, choices=range(1, REPLICAS_MAX + 1), metavar="N", default=3)
    parser.add_argument("--workers", type=int, default=1, help="worker processes a host (default: 1)")
    parser.add_argument("--origin", default="stockade.example.org", help="what the names of the logs begin with")
    parser.add_argument("--bundles", default=IN_IMAGE, metavar="DIR", help="signed models in the image")
    return parser


def main() -> int:
    options = command_line().parse_args()
    files = wanted(options)
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if options.check:
            print(f"out of date: {path} (run scripts/generate_kubernetes.py)", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
            print(f"wrote {path}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
