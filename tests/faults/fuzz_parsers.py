"""The audit log's parsers under libFuzzer, guided by coverage. Options are libFuzzer's:

python -m tests.faults.fuzz_parsers -max_total_time=600

The first byte of what is tried picks the parser, so that one campaign is for all of them.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ops.audit"]):
    from tests.faults.parsers import PARSERS


def check(data: bytes) -> None:
    """Let the parser read; what it raises without a name ends the campaign."""
    if not data:
        return
    parser = PARSERS[data[0] % len(PARSERS)]
    with suppress(*parser.errors):
        parser.parse(data[1:])


def main() -> None:
    """Start from the sound examples; ends the process, as libFuzzer does."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, parser in enumerate(PARSERS):
            for which, sample in enumerate(parser.samples):
                (Path(corpus) / f"{number}-{which}").write_bytes(bytes([number]) + sample)
        atheris.Setup([*sys.argv, corpus], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
