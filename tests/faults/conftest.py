"""No recorder outlives the test that started it."""

from collections.abc import Iterator

import pytest

from tests.faults.recorder_process import launched


@pytest.fixture(autouse=True)
def _no_recorder_left() -> Iterator[None]:
    yield
    while launched:
        recorder = launched.pop()
        if recorder.process.poll() is None:
            recorder.kill()
