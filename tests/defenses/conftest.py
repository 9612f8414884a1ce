"""What a model would say of rows it knows, drawn at random: benign evidence that is exchangeable by construction."""

import numpy as np
import pytest


def benign_outputs(rng, rows, *, classes=10):
    logits = rng.normal(size=(rows, classes)) * 3
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return {
        "energy": -np.log(np.exp(logits).sum(axis=1)).astype(np.float32),
        "mahalanobis": rng.chisquare(64, rows).astype(np.float32),
        "residual": rng.gamma(3.0, 0.01, rows).astype(np.float32),
        "probabilities": (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32),
    }


@pytest.fixture(scope="session")
def benign():
    return benign_outputs
