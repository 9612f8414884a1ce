"""No recorder outlives the test that started it, and each kind of fault says at the end how often it was tried."""

from collections.abc import Callable, Iterator

import pytest

from tests.faults.recorder_process import launched

COUNTS = "faults"


@pytest.fixture(autouse=True)
def _no_recorder_left() -> Iterator[None]:
    yield
    while launched:
        recorder = launched.pop()
        if recorder.process.poll() is None:
            recorder.kill()


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """`counted(kind, name=number, ...)`: shown when all tests have run, from worker processes too."""

    def count(kind: str, **numbers: int) -> None:
        shown = ", ".join(f"{number:,} {name}" for name, number in numbers.items())
        record_property(COUNTS, f"{kind}: {shown}")

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        str(value)
        for report in terminalreporter.stats.get("passed", [])
        for name, value in getattr(report, "user_properties", [])
        if name == COUNTS and report.when == "call"
    ]
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.line(line)
