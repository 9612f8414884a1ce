"""The codec under libFuzzer, guided by coverage. Options are libFuzzer's:

python -m tests.gateway.fuzz_codec -max_total_time=60
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gateway.codec"]):
    from tests.gateway.codec_property import check, seeds


def main() -> None:
    """Start from a good request of each kind; ends the process, as libFuzzer does."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
