"""The recorder under strace: its system calls in order, and its system calls made to fail."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CALLS = "pwrite64,pwritev,pwritev2,write,fsync,fdatasync,rename,mkdir,sendto,recvfrom,openat"
_LINE = re.compile(r"^(?P<thread>\d+)\s+(?P<call>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+|\?)")
_SPLIT = re.compile(r"^(?P<thread>\d+)\s+(?P<head>.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(?P<thread>\d+)\s+<\.\.\. \w+ resumed>(?P<tail>.*)$")


@cache
def why_not() -> str:
    """Why strace cannot be used here; empty when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "ptrace is not allowed here"


@dataclass(frozen=True)
class Call:
    """A system call that has returned, in the order of returning."""

    thread: int
    name: str
    arguments: str
    result: str

    def on(self, part: str) -> bool:
        """Whether the first descriptor's path, or a path argument, holds this."""
        return part in self.arguments


def tracer(output: Path, *options: str) -> tuple[str, ...]:
    """The command that goes before the recorder's."""
    return ("strace", "-f", "-y", "--seccomp-bpf", "-s", "64", "-e", f"trace={CALLS}", "-o", str(output), *options)


def calls(output: Path) -> list[Call]:
    """The trace. A call that another thread interrupted stands where it returned."""
    begun: dict[str, str] = {}
    found: list[Call] = []
    for line in output.read_text(errors="replace").splitlines():
        if (split := _SPLIT.match(line)) is not None:
            begun[split["thread"]] = split["head"]
            continue
        whole = line
        if (resumed := _RESUMED.match(line)) is not None:
            whole = f"{resumed['thread']} {begun.pop(resumed['thread'], '')}{resumed['tail']}"
        match = _LINE.match(whole)
        if match is not None:
            found.append(Call(int(match["thread"]), match["call"], match["arguments"], match["result"]))
    return found
