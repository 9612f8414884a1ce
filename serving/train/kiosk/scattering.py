"""Log scattering of kiosk images: how a product is drawn, without learning (Bruna and Mallat 2013, arXiv 1203.1513).

    x * phi,   |x * psi(j, l)| * phi,   ||x * psi(0, l)| * psi(1, m)| * phi

Morlet wavelets psi of two scales j and eight orientations, a Gaussian phi, every fourth pixel of what it gives: 81
planes of 7 x 7. Small moves and turns change them little, and their logarithms are closer to normal than they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from serving.train.kiosk.views import scaled

SIDE = 28
ORIENTATIONS = 8
STRIDE = 4
SIGMA = 0.8  # of the finest wavelet's envelope, in pixels; twice that for the other scale
FREQUENCY = 3 * math.pi / 4  # of the finest wavelet, in radians a pixel
BLUR_SIGMA = SIGMA * 2 * math.sqrt(2)
BLUR_RADIUS = 6
LOG_OFFSET = 1e-3
BATCH_ROWS = 250
PLANES = 1 + 2 * ORIENTATIONS + ORIENTATIONS**2
FEATURES = PLANES * (SIDE // STRIDE) ** 2


def log_scattering(images: Tensor) -> Tensor:
    """Return the features float32 (n, 3969) of images uint8 (n, 28, 28)."""
    fine, coarse, blur = _wavelets(0), _wavelets(1), _blur()
    found = torch.empty(len(images), FEATURES)
    for start in range(0, len(images), BATCH_ROWS):
        seen = scaled(images[start : start + BATCH_ROWS])
        first = _modulus(seen, fine)
        planes = torch.cat([seen, first, _modulus(seen, coarse), _modulus(first, coarse)], dim=1)
        found[start : start + len(seen)] = (_blurred(planes, blur) + LOG_OFFSET).log().flatten(1)
    return found


def _wavelets(scale: int) -> Tensor:
    """Return the real parts, then the imaginary parts, of Morlet wavelets: float32 (16, 1, taps, taps)."""
    sigma, frequency, slant = SIGMA * 2**scale, FREQUENCY / 2**scale, 4 / ORIENTATIONS
    radius = math.ceil(3 * sigma)
    down, across = torch.meshgrid(*[torch.arange(-radius, radius + 1.0, dtype=torch.float64)] * 2, indexing="ij")
    waves = []
    for turn in torch.arange(ORIENTATIONS) * math.pi / ORIENTATIONS:
        along, aside = turn.cos() * across + turn.sin() * down, turn.cos() * down - turn.sin() * across
        envelope = torch.exp(-(along.square() + (slant * aside).square()) / (2 * sigma**2))
        wave = torch.exp(1j * frequency * along)
        wave = envelope * (wave - (envelope * wave).sum() / envelope.sum())  # blind to a constant
        waves.append(wave * slant / (2 * math.pi * sigma**2))
    bank = torch.stack(waves)
    return torch.cat([bank.real, bank.imag]).float().unsqueeze(1)


def _modulus(planes: Tensor, wavelets: Tensor) -> Tensor:
    """Return how strongly each wavelet answers on each plane: (n, planes x 8, 28, 28) of (n, planes, 28, 28)."""
    rows = planes.reshape(-1, 1, SIDE, SIDE)
    answers = functional.conv2d(functional.pad(rows, [wavelets.shape[-1] // 2] * 4, mode="reflect"), wavelets)
    lengths = torch.hypot(answers[:, :ORIENTATIONS], answers[:, ORIENTATIONS:])
    return lengths.reshape(len(planes), -1, SIDE, SIDE)


def _blur() -> Tensor:
    places = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1.0)
    taps = torch.exp(-places.square() / (2 * BLUR_SIGMA**2))
    return taps / taps.sum()


def _blurred(planes: Tensor, taps: Tensor) -> Tensor:
    """Return every fourth pixel of the blurred planes, (n, planes, 7, 7)."""
    rows = functional.pad(planes.reshape(-1, 1, SIDE, SIDE), [BLUR_RADIUS] * 4, mode="reflect")
    down = functional.conv2d(rows, taps.view(1, 1, -1, 1), stride=(STRIDE, 1))
    return functional.conv2d(down, taps.view(1, 1, 1, -1), stride=(1, STRIDE)).reshape(*planes.shape[:2], 7, 7)
