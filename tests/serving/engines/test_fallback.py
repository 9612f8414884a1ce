"""An engine before another one: what is passed on, and what is not."""

import numpy as np
import pytest

from serving.engines.fallback import FallbackEngine
from serving.errors import BackendFailed, BackendTimedOut, BackendUnavailable, DeploymentStale
from tests.serving.fake_engine import FakeEngine
from tests.serving.tiny import tiny_bundle

IMAGES = {"image": np.full((2, 28, 28), 0.5, np.float32)}


def unheard(_gone):
    """Who does not want to know."""


class Failing(FakeEngine):
    """Fails as it is told."""

    def __init__(self, error):
        super().__init__(tiny_bundle())
        self.error = error

    def infer(self, inputs, /):
        if self.error is not None:
            raise self.error
        return super().infer(inputs)

    def ready(self):
        return self.error is None and super().ready()


@pytest.mark.parametrize("error", [BackendUnavailable("m", "gone"), DeploymentStale("m", "a", "b")])
def test_what_the_first_cannot_take_the_second_answers_until_the_first_is_back(error):
    first, second = Failing(error), FakeEngine(tiny_bundle())
    engine = FallbackEngine(first, second, unheard)
    assert engine.ready()
    assert engine.infer(IMAGES)["energy"][0] == pytest.approx(0.5)
    first.error = None
    second.close()
    assert engine.infer(IMAGES)["energy"][0] == pytest.approx(0.5)
    engine.close()
    assert not engine.ready()


@pytest.mark.parametrize("error", [BackendTimedOut("m", 1), BackendFailed("m", "no")])
def test_what_the_first_may_have_done_is_not_passed_on(error):
    engine = FallbackEngine(Failing(error), FakeEngine(tiny_bundle()), unheard)
    with pytest.raises(type(error)):
        engine.infer(IMAGES)


def test_going_and_coming_back_are_told_once_each_and_batches_are_counted():
    first, told = Failing(None), []
    engine = FallbackEngine(first, FakeEngine(tiny_bundle()), told.append)
    engine.infer(IMAGES)
    assert (told, engine.taken(), engine.each_ready()) == ([], 0, (True, True))
    first.error = gone = BackendUnavailable("m", "gone")
    for _ in range(3):
        engine.infer(IMAGES)
    assert engine.ready()
    assert (told, engine.each_ready(), engine.taken(), engine.taken()) == ([gone], (False, True), 3, 0)
    first.error = None
    for _ in range(3):
        engine.infer(IMAGES)
    assert (told, engine.each_ready(), engine.taken()) == ([gone, None], (True, True), 0)


def test_a_batch_that_the_second_fails_too_is_not_counted_as_answered():
    told = []
    engine = FallbackEngine(Failing(BackendUnavailable("m", "gone")), Failing(BackendFailed("m", "no")), told.append)
    with pytest.raises(BackendFailed):
        engine.infer(IMAGES)
    assert (len(told), engine.taken()) == (1, 0)
