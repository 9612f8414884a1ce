import numpy as np
import pytest


@pytest.fixture
def image():
    return np.linspace(0, 1, 784, dtype=np.float32).reshape(28, 28)
