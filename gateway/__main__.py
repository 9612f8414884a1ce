"""Where `stockade` and `python -m gateway` begin. Whoever changes his mind while they load sees no traceback.

A verb that is told to end (SIGTERM) ends as if it were interrupted, so that what it started ends with it; servers bring
a way of their own.
"""

from __future__ import annotations

import signal
import sys

EX_INTERRUPTED = 130


def main() -> int:
    """Run the command line; returns its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from gateway.cli.main import main as run  # noqa: PLC0415  loading takes a while, and may be interrupted

        return run()
    except KeyboardInterrupt:
        return EX_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
