from __future__ import annotations

import numpy as np
import pytest
import torch

from serving.train.clickstream.loop import sigreg, unit_directions

ROWS, WIDTH = 1000, 8


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def normal(generator):
    return torch.randn(ROWS, WIDTH, generator=generator)


def by_integral(embeddings, directions, knots):
    """The formula of the paper, one direction after the other, by as many trapezoids as it takes."""
    t = np.linspace(0.0, 3.0, knots)
    values = []
    for direction in directions.T.double().numpy():
        angles = np.outer(embeddings.double().numpy() @ direction, t)
        apart = (np.cos(angles).mean(0) - np.exp(-(t**2) / 2)) ** 2 + np.sin(angles).mean(0) ** 2
        values.append(len(embeddings) * np.trapezoid(apart * np.exp(-(t**2) / 2), t))
    return np.mean(values)


@pytest.mark.parametrize("make", [lambda z: z, lambda z: 2 * z, lambda z: z * 0 + 1, lambda z: z.abs()])
def test_it_is_the_integral(normal, generator, make):
    directions, batch = unit_directions(WIDTH, 4, generator), make(normal)[:300]
    value = float(sigreg(batch, directions))
    assert value == pytest.approx(by_integral(batch, directions, 17), rel=1e-4)
    assert value == pytest.approx(by_integral(batch, directions, 2_001), rel=0.02)


def test_a_normal_costs_half_a_unit_whatever_the_rows_and_a_collapsed_batch_as_much_as_it_has(normal, generator):
    directions = unit_directions(WIDTH, 64, generator)
    for rows in (100, 400):
        batches = [torch.randn(rows, WIDTH, generator=generator) for _ in range(30)]
        assert np.mean([float(sigreg(batch, directions)) for batch in batches]) == pytest.approx(0.53, abs=0.1)
    collapsed = torch.zeros(ROWS, WIDTH)
    assert float(sigreg(collapsed, directions)) > 0.1 * ROWS
    line = normal[:, :1] * torch.ones(WIDTH)  # of unit variance in each coordinate, and yet on a line
    assert float(sigreg(line, directions)) > 0.02 * ROWS


def test_the_gradient_widens_what_is_narrow_narrows_what_is_wide_and_moves_what_is_off(normal, generator):
    directions = unit_directions(WIDTH, 64, generator)

    def gradient(batch):
        batch = batch.clone().requires_grad_()
        sigreg(batch, directions).backward()
        return batch.grad

    assert (gradient(0.5 * normal) * normal).sum() < 0
    assert (gradient(2.0 * normal) * normal).sum() > 0
    assert (gradient(normal + 0.5).mean(0) > 0).all()
    assert (gradient(normal - 0.5).mean(0) < 0).all()


def test_descending_it_takes_a_collapsed_batch_apart(generator):
    batch = (0.01 * torch.randn(128, 4, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([batch], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        sigreg(batch, unit_directions(4, 16, generator)).backward()
        optimizer.step()
    assert torch.linalg.eigvalsh(torch.cov(batch.detach().T)).min() > 0.5


def test_directions_are_of_length_one_and_anew_each_time(generator):
    first, second = (unit_directions(WIDTH, 16, generator) for _ in range(2))
    assert torch.allclose(first.norm(dim=0), torch.ones(16))
    assert not torch.allclose(first, second)
