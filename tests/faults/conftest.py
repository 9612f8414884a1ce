"""No recorder outlives the test that started it, and each kind of fault says at the end how often it was tried."""

from collections import Counter
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
    """`counted(kind, name=number, ...)`: added up by kind, and shown when all tests have run."""

    def count(kind: str, **numbers: int) -> None:
        record_property(COUNTS, [kind, numbers])

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    kinds: dict[str, Counter[str]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == COUNTS:
                kinds.setdefault(value[0], Counter()).update(value[1])
    if kinds:
        terminalreporter.section("faults")
    for kind, numbers in kinds.items():
        terminalreporter.line(f"{kind}: " + ", ".join(f"{number:,} {name}" for name, number in numbers.items()))
