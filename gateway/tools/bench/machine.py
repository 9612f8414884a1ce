"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

from gateway.tools.bench.h2load import h2load_version
from gateway.tools.bench.workspace import filesystem

OUR_PACKAGES = ("stockade", "grpcio", "protobuf", "numpy", "onnxruntime", "uvloop")


def machine_facts(directory: Path) -> dict[str, str | int | float]:
    """The machine now; `directory` is where the audit log will lie."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "filesystem": filesystem(directory),
        "load_average_before": round(os.getloadavg()[0], 2),
        "niceness": os.nice(0),
    }


def our_versions() -> dict[str, str]:
    """Ours, and the load generator's."""
    packages = {name: version(name) for name in OUR_PACKAGES}
    return {"python": platform.python_version(), "h2load": h2load_version(), **packages}


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
