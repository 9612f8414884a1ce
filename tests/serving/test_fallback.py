"""An engine before another one: what is passed on, and what is not."""

import numpy as np
import pytest

from serving.errors import BackendFailed, BackendTimedOut, BackendUnavailable, DeploymentStale
from serving.fallback import FallbackEngine
from tests.serving.fake_engine import FakeEngine
from tests.serving.tiny import tiny_bundle

IMAGES = {"image": np.full((2, 28, 28), 0.5, np.float32)}


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
    engine = FallbackEngine(first, second)
    assert engine.ready()
    assert engine.infer(IMAGES)["energy"][0] == pytest.approx(0.5)
    first.error = None
    second.close()
    assert engine.infer(IMAGES)["energy"][0] == pytest.approx(0.5)
    engine.close()
    assert not engine.ready()


@pytest.mark.parametrize("error", [BackendTimedOut("m", 1), BackendFailed("m", "no")])
def test_what_the_first_may_have_done_is_not_passed_on(error):
    engine = FallbackEngine(Failing(error), FakeEngine(tiny_bundle()))
    with pytest.raises(type(error)):
        engine.infer(IMAGES)
