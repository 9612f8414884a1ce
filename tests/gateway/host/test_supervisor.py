"""Children are started, watched, told and stopped; a reload is all or nothing."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from gateway.host import supervisor
from gateway.host.children import WORKER_ENVIRONMENT
from gateway.host.supervisor import (
    DEATHS_MAX,
    EVENT_BYTES_MAX,
    FINAL,
    REPLIES_MAX,
    Child,
    StartFailed,
    Target,
    all_ready,
    reload_everywhere,
)
from tests.gateway.rig import until

READY = "import sys, json; print(json.dumps({'event': 'ready', 'policy': 'p0'}), flush=True); "
ECHO = READY + (
    "\nfor line in sys.stdin:"
    "\n    told = json.loads(line)"
    "\n    if told['do'] == 'prepare': staged = {'policy': told['policy'], 'models': told['models']}"
    "\n    event = {'prepare': 'prepared', 'commit': 'committed'}.get(told['do'])"
    "\n    if event: print(json.dumps({'event': event, **staged}), flush=True)"
)
REFUSES = (
    READY + "\nfor line in sys.stdin: print(json.dumps({'event': 'rejected', 'problem': 'no such screen'}), flush=True)"
)
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY + "sys.stdin.read()"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(supervisor, "PAUSE_FIRST_S", 0.01)


def target(policy_file: str, policy: str = "p1", models: str = "m1") -> Target:
    """What a child that echoes prepares for these files, unless told otherwise."""
    return Target(policy_file, "m1", policy, models)


class Nursery:
    """Starts children, and leaves none behind."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.children: list[tuple[Child, asyncio.Task[None]]] = []

    def log(self, event: str, **_: object) -> None:
        self.events.append(event)

    def start(self, code: str, **more) -> tuple[Child, asyncio.Task[None]]:
        child = Child(f"child-{len(self.children)}", ["-c", code], self.log, **more)
        task = asyncio.create_task(child.run(), name=child.name)
        self.children.append((child, task))
        return child, task

    async def ready(self, *codes: str) -> list[Child]:
        started = [self.start(code) for code in codes]
        await all_ready([child for child, _ in started], [task for _, task in started], 30)
        return [child for child, _ in started]


@pytest.fixture
async def nursery():
    made = Nursery()
    yield made
    for child, task in made.children:
        await child.stop(0.2)
        task.cancel()
    await asyncio.gather(*(task for _, task in made.children), return_exceptions=True)
    for child, _ in made.children:
        assert child.process is None or child.process.returncode is not None


async def test_a_child_that_dies_is_started_again(nursery):
    (child,) = await nursery.ready(ECHO)
    first = child.process.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.process.pid != first and child.ready.is_set())
    assert (child.starts, child.facts["policy"]) == (2, "p0")
    assert nursery.events.count("child-ended") == 1


async def test_a_child_finds_what_it_is_given_in_its_environment_unless_that_says_otherwise(nursery, monkeypatch):
    monkeypatch.setenv("STOCKADE_SET", "by hand")
    code = "import os; " + READY.replace("'p0'", "os.environ['STOCKADE_SET'] + os.environ['STOCKADE_GIVEN']")
    child, _ = nursery.start(code + "sys.stdin.read()", environment={"STOCKADE_SET": "no", "STOCKADE_GIVEN": ", given"})
    await until(child.ready.is_set)
    assert child.facts["policy"] == "by hand, given"


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core has one thread anyway")
async def test_matrix_products_of_a_worker_stay_in_one_thread(nursery, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    code = "import os, numpy; " + READY.replace("'p0'", "len(os.listdir('/proc/self/task'))") + "sys.stdin.read()"
    child, _ = nursery.start(code, environment=WORKER_ENVIRONMENT)
    await until(child.ready.is_set)
    assert child.facts["policy"] == 1


async def test_one_that_never_comes_up_is_given_up_after_a_few_deaths(nursery):
    child, task = nursery.start("raise SystemExit(3)")
    with pytest.raises(StartFailed, match="exit code 3"):
        await task
    assert child.starts == DEATHS_MAX


FAILED = "import json; print(json.dumps({'event': 'failed', 'problem': 'no such port'}), flush=True); "


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (f"raise SystemExit({min(FINAL)})", "exit code 78: see its log"),
        (FAILED + f"raise SystemExit({min(FINAL)})", "exit code 78: no such port"),
        (FAILED + "raise SystemExit(65)", "exit code 65: no such port"),
        (FAILED + "raise SystemExit(74)", "exit code 74: no such port"),
    ],
)
async def test_one_that_says_starting_it_again_changes_nothing_is_believed(nursery, code, said):
    child, task = nursery.start(code, final=frozenset({65}), final_at_start=frozenset({74}))
    with pytest.raises(StartFailed, match=said):
        await task
    assert child.starts == 1


async def test_what_is_final_at_the_start_only_is_tried_again_after_it_worked(nursery):
    child, task = nursery.start(READY + "raise SystemExit(74)", final_at_start=frozenset({74}))
    await until(lambda: child.starts > DEATHS_MAX + 1, 60)
    assert not task.done()


async def test_what_is_final_is_so_after_it_worked_too(nursery):
    child, task = nursery.start(READY + "raise SystemExit(65)", final=frozenset({65}))
    with pytest.raises(StartFailed, match="exit code 65"):
        await task
    assert child.starts == 1


async def test_the_last_words_of_one_that_is_given_up_are_passed_on(nursery):
    _, task = nursery.start(FAILED + "raise SystemExit(75)")
    with pytest.raises(StartFailed, match=f"exit code 75, {DEATHS_MAX} times in a row: no such port"):
        await task


async def test_something_can_be_put_right_before_each_start(nursery):
    seen: list[int] = []
    child, task = nursery.start("raise SystemExit(3)", before_start=lambda: seen.append(child.starts))
    with pytest.raises(StartFailed):
        await task
    assert seen == list(range(DEATHS_MAX))


async def test_one_that_is_stopped_between_two_starts_is_not_started_again(nursery, monkeypatch):
    monkeypatch.setattr(supervisor, "PAUSE_FIRST_S", 60)
    child, task = nursery.start("raise SystemExit(3)")
    await until(lambda: "child-ended" in nursery.events)
    await child.stop(5)
    await task
    assert child.starts == 1


async def test_one_that_is_stopped_while_it_starts_is_ended(nursery):
    child, task = nursery.start("import sys; sys.stdin.read()")
    await asyncio.sleep(0)  # its process is being made
    assert child.process is None
    await child.stop(5)
    await task
    assert child.process.returncode == -signal.SIGTERM


async def test_deaths_are_counted_anew_once_it_was_ready(nursery):
    child, task = nursery.start(READY)  # ready, and then it ends
    await until(lambda: child.starts > DEATHS_MAX + 1, 60)
    assert not task.done()


async def test_waiting_for_children_names_the_late_one(nursery):
    child, task = nursery.start("import time; time.sleep(60)")
    with pytest.raises(StartFailed, match="not ready after 0 s: child-0"):
        await all_ready([child], [task], 0.05)


async def test_a_stray_print_is_not_an_event(nursery):
    (child,) = await nursery.ready("print('hello {'); " + ECHO)
    assert (await child.ask(20, do="prepare", policy="p1", models="m1"))["policy"] == "p1"


@pytest.mark.parametrize(
    "said",
    [
        "print('x' * (1 << 18)); ",
        "print('x' * 65_536, end=''); print(json.dumps({'event': 'failed', 'problem': 'torn off'})); ",
        "print('7'); print('null'); print('[]'); print('\"ready\"'); ",
        "sys.stdout.buffer.write(bytes([255, 10])); ",
        "print('[' * 60_000); ",
        "print('{}'); print(json.dumps({'event': 'committed'})); ",
        "print('{}\\n' * 100); ",
    ],
    ids=["too long", "too long, its end like an event", "no object", "no text", "too deep", "no event", "too many"],
)
async def test_what_is_no_event_does_no_harm(nursery, said):
    (child,) = await nursery.ready("import sys, json; " + said + ECHO)
    assert child.replies.qsize() <= REPLIES_MAX
    assert (await child.ask(20, do="prepare", policy="p1", models="m1"))["policy"] == "p1"
    assert child.problem == ""


async def test_a_line_that_is_too_long_is_told(nursery):
    await nursery.ready(f"print('x' * {EVENT_BYTES_MAX + 1}); " + ECHO)
    assert nursery.events.count("event-too-large") == 1
    await nursery.ready(f"print('x' * {EVENT_BYTES_MAX}); " + ECHO)
    assert nursery.events.count("event-too-large") == 1


async def test_one_that_is_up_can_work_unless_it_says_otherwise(nursery):
    (child,) = await nursery.ready(ECHO)
    assert child.able
    health = "print(json.dumps({'event': 'health', 'able': %s}), flush=True); "
    (child,) = await nursery.ready(
        READY + health % "False" + "sys.stdin.readline(); " + health % "True" + "sys.stdin.read()"
    )
    await until(lambda: not child.able)
    child.tell(do="anything")
    await until(lambda: child.able)


async def test_a_child_that_does_not_answer_is_silent(nursery):
    (child,) = await nursery.ready(READY + "sys.stdin.read()")
    assert await child.ask(0.05, do="prepare", policy="p1", models="m1") == {"event": "silent"}


@pytest.mark.timeout(120)  # where it would be waited for, that is an hour
async def test_nobody_waits_for_the_answer_of_a_child_that_has_ended(nursery):
    (child,) = await nursery.ready(READY + "sys.stdin.readline()")
    assert await child.ask(3600, do="prepare", policy="p1", models="m1") == {"event": "silent"}


async def test_one_that_reads_nothing_is_ended_before_what_it_is_told_fills_the_memory(nursery, monkeypatch):
    monkeypatch.setattr(supervisor, "UNHEARD_BYTES_MAX", 1024)
    (child,) = await nursery.ready("import time; " + READY + "time.sleep(3600)")
    deaf = child.process
    child.tell(do="move", canaries="x" * 1024 * 1024)  # more than a pipe holds
    assert child.alive
    child.tell(do="move")
    assert await asyncio.wait_for(deaf.wait(), 60) == -signal.SIGKILL
    assert "child-hears-nothing" in nursery.events
    await until(lambda: child.starts == 2)


async def test_one_that_ignores_the_signal_is_killed(nursery):
    (child,) = await nursery.ready(STUBBORN)
    await child.stop(0.1)
    assert child.process.returncode == -signal.SIGKILL
    assert "child-killed" in nursery.events


async def test_a_reload_reaches_every_worker(nursery):
    workers = await nursery.ready(ECHO, ECHO)
    done: list[str] = []
    assert await reload_everywhere(workers, target("p1"), lambda: done.append("kept"), 20) is None
    assert done == ["kept"]
    assert all(target("p1").reached(worker.facts) for worker in workers)


@pytest.mark.parametrize(
    ("codes", "policy", "models", "patience_s", "problem"),
    [
        ((ECHO, REFUSES), "p1", "m1", 20, "child-1: no such screen"),
        ((READY + "sys.stdin.read()", ECHO), "p1", "m1", 0.1, "child-0: silent"),  # whatever becomes of the other
        ((ECHO, ECHO), "p2", "m1", 20, "child-0: prepared"),
        ((ECHO, ECHO), "p1", "m2", 20, "child-0: prepared"),
    ],
    ids=["refuses", "is silent", "prepared another policy", "prepared other models"],
)
async def test_when_one_worker_will_not_nobody_does(nursery, *, codes, policy, models, patience_s, problem):
    workers = await nursery.ready(*codes)
    done: list[str] = []
    wanted = target("p1", policy=policy, models=models)
    refused = await reload_everywhere(workers, wanted, lambda: done.append("kept"), patience_s)
    assert refused == problem
    assert done == []
    assert {worker.facts["policy"] for worker in workers} == {"p0"}


async def test_what_cannot_be_kept_is_used_by_nobody(nursery):
    def full() -> None:
        raise OSError(28, "No space left on device")

    workers = await nursery.ready(ECHO, ECHO)
    assert "No space left" in await reload_everywhere(workers, target("p1"), full, 20)
    assert (await workers[0].ask(20, do="prepare", policy="p2", models="m1"))[
        "event"
    ] == "prepared"  # and nothing before it
    assert {worker.facts["policy"] for worker in workers} == {"p0"}
