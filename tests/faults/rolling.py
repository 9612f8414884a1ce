"""A recorder that ends at a step of the change from one epoch to the next: the `after`-th time it gets there.

python -m tests.faults.rolling POINT AFTER [MOUNT] SETTINGS

It is killed, as by kill -9; with MOUNT the power of the file system there is cut first.
"""

import os
import signal
import sys
from pathlib import Path

from ops.audit.recorder_main import run
from ops.audit.settings import RecorderSettings
from tests.faults.cut_mount import cut_power


def main(point: str, after: int, settings: Path, mount: Path | None) -> int:
    left = after

    def reached(name: str) -> None:
        nonlocal left
        left -= name == point
        if left == 0:
            if mount is not None:
                cut_power(mount)
            os.kill(os.getpid(), signal.SIGKILL)

    return run(lambda: RecorderSettings.from_json(settings.read_bytes()), reached)


if __name__ == "__main__":
    _, step, times, *places, file = sys.argv
    sys.exit(main(step, int(times), Path(file), Path(places[0]) if places else None))
