"""How long a process waits at its start for what runs on the cluster. No bridge runs here, and no time passes."""

from __future__ import annotations

import threading

import pytest

from serving.engines.ray.frames import ApplicationStatus, Status
from serving.engines.ray.link import NEXT_WORD_S, Link
from serving.engines.ray.settings import RaySettings

APPLICATION = "stockade-tiny-1"
BEGAN_S = 1000.0


class Clock:
    now_s = BEGAN_S

    def __call__(self) -> float:
        return self.now_s


class Waits:
    """A condition whose waits end at once; `asked_s` is how long each would have been."""

    def __init__(self, condition: threading.Condition) -> None:
        self._condition = condition
        self.asked_s: list[float] = []

    def __enter__(self) -> None:
        self._condition.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._condition.__exit__(*raised)

    def wait_for(self, there, timeout_s: float) -> bool:
        self.asked_s.append(timeout_s)
        return self._condition.wait_for(there, 0)


@pytest.fixture
def link(monkeypatch):
    monkeypatch.setattr(Link, "_keep", lambda _: None)
    return Link(RaySettings(address="127.0.0.1:1"), clock_s=Clock())


@pytest.fixture
def waits(link):
    link._changed = Waits(link._changed)
    return link._changed


@pytest.mark.parametrize(
    ("after_s", "timeout_s", "waits_s"),
    [
        (0, 30, 30),
        (25, 30, 5),  # a process that opens many models waits once for all of them
        (29, 30, NEXT_WORD_S),  # the last seconds are not less than one word of the bridge takes
        (500, 30, NEXT_WORD_S),  # a model that is opened later
        (500, 0.5, 0.5),
        (0, 0, 0),
    ],
)
def test_the_time_counts_from_when_the_bridge_was_started(link, waits, after_s, timeout_s, waits_s):
    link._clock_s.now_s += after_s
    assert not link.wait_for(APPLICATION, timeout_s)
    assert waits.asked_s == [waits_s]


@pytest.mark.parametrize(
    ("applications", "there"),
    [
        ({}, False),
        ({APPLICATION: ApplicationStatus("DEPLOYING", 0, wanted=2)}, False),
        ({APPLICATION: ApplicationStatus("DEPLOYING", 1, wanted=2)}, True),  # one replica answers
        ({"stockade-tiny-12": ApplicationStatus("RUNNING", 1, wanted=1)}, False),
    ],
)
def test_what_is_waited_for_is_one_replica_of_the_application(link, applications, there):
    link._tell(Status(applications=applications))
    assert link.wait_for(APPLICATION, 0) is there


def test_who_waits_is_woken_by_what_the_bridge_says_and_goes_on_until_it_is_the_right_thing(link, monkeypatch):
    waiting = threading.Event()
    found: list[bool] = []
    looks = threading.Semaphore(0)

    class Seen(dict):
        def get(self, name, default=None):
            looks.release()
            waiting.set()
            return super().get(name, default)

    monkeypatch.setattr(link, "status", Status(applications=Seen()))
    thread = threading.Thread(target=lambda: found.append(link.wait_for(APPLICATION, 60)))
    thread.start()
    assert waiting.wait(20)
    link._tell(Status(applications=Seen({"other": ApplicationStatus("RUNNING", 1)})))
    for _ in range(2):  # before it waited, and after it was told of the other one
        assert looks.acquire(timeout=20)
    assert not found
    link._tell(Status(applications=Seen({APPLICATION: ApplicationStatus("RUNNING", 1)})))
    thread.join(20)
    assert found == [True]
