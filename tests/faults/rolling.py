"""A recorder that ends at a step of the change from one epoch to the next: the `after`-th time it gets there.

python -m tests.faults.rolling SIGNAL POINT AFTER [MOUNT] SETTINGS

SIGKILL ends it, as kill -9 does; with MOUNT the power of the file system there is cut first. By SIGTERM it ends itself.
"""

import os
import signal
import sys
from pathlib import Path

from ops.audit.store.recorder_main import run
from ops.audit.store.settings import RecorderSettings
from tests.faults.cut_mount import cut_power


def main(end: signal.Signals, point: str, after: int, settings: Path, mount: Path | None) -> int:
    left = after

    def reached(name: str) -> None:
        nonlocal left
        left -= name == point
        if left == 0:
            if mount is not None:
                cut_power(mount)
            os.kill(os.getpid(), end)

    return run(lambda: RecorderSettings.from_json(settings.read_bytes()), reached)


if __name__ == "__main__":
    _, name, step, times, *places, file = sys.argv
    sys.exit(main(signal.Signals[name], step, int(times), Path(file), Path(places[0]) if places else None))
