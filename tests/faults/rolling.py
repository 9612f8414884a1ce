"""A recorder that is killed at a step of the change from one epoch to the next: the `after`-th time it gets there.

python -m tests.faults.rolling POINT AFTER SETTINGS
"""

import os
import signal
import sys
from pathlib import Path

from ops.audit.recorder_main import run
from ops.audit.settings import RecorderSettings


def main(point: str, after: int, settings: Path) -> int:
    left = after

    def reached(name: str) -> None:
        nonlocal left
        left -= name == point
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return run(lambda: RecorderSettings.from_json(settings.read_bytes()), reached)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
