"""Random views of kiosk images: what still shows the same product. Two strengths, one generator.

- weak: moved by up to two pixels, mirrored half of the time.
- strong: turned, stretched, cropped and moved by one bilinear map, mirrored, its greys bent and scaled, and a square
  of it blanked: what joint-embedding pretraining and consistency training ask to be told apart from the product.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 28
SHIFT_MAX = 2 * 2 / SIDE  # two pixels, on the scale of the sampling grid, -1 to 1
TURN_RADIANS_MAX = 0.25
ZOOM = (0.6, 1.1)  # share of the side that a view shows
STRETCH = 0.2
MOVE_MAX = 0.2
GAMMA_LOG_MAX = 0.5
GREY_SCALE_MIN = 0.6
HOLE_PIXELS_MAX = 12
NOISE = 0.02


def scaled(images: Tensor) -> Tensor:
    """Return uint8 (n, 28, 28) as float32 (n, 1, 28, 28) in [0, 1]."""
    return images.unsqueeze(1).float().div_(255.0)


def weak(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return one weak view of each image, float32 (n, 1, 28, 28) in [0, 1]."""
    count = len(images)
    one = torch.ones(count)
    shifts = ((torch.rand(2, count, generator=generator) * 2 - 1) * SHIFT_MAX).unbind()
    return _mapped(images, (_signs(count, generator), 0 * one, 0 * one, one), shifts)


def strong(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return one strong view of each image, float32 (n, 1, 28, 28) in [0, 1]."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    turn, zoom = uniform(-TURN_RADIANS_MAX, TURN_RADIANS_MAX), uniform(*ZOOM)
    stretch, sign = uniform(-STRETCH, STRETCH).exp(), _signs(count, generator)
    wide, high = sign * zoom * stretch, zoom / stretch
    turned = (wide * turn.cos(), -high * turn.sin(), wide * turn.sin(), high * turn.cos())
    seen = _mapped(images, turned, (uniform(-MOVE_MAX, MOVE_MAX), uniform(-MOVE_MAX, MOVE_MAX)))
    gamma, scale = uniform(-GAMMA_LOG_MAX, GAMMA_LOG_MAX).exp(), uniform(GREY_SCALE_MIN, 1.0)
    seen = scale[:, None, None, None] * seen.clamp(min=1e-6) ** gamma[:, None, None, None]
    noisy = seen + NOISE * torch.randn(seen.shape, generator=generator)
    return (noisy * _holes(count, generator)).clamp_(0.0, 1.0)


def _signs(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1.0


def _mapped(images: Tensor, matrix: tuple[Tensor, Tensor, Tensor, Tensor], moved: tuple[Tensor, ...]) -> Tensor:
    """Sample the images where the affine map of each sends the grid; beyond the border is black."""
    rows = torch.stack([matrix[0], matrix[1], moved[0], matrix[2], matrix[3], moved[1]], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    seen: Tensor = functional.grid_sample(images, grid, align_corners=False)
    return seen


def _holes(count: int, generator: torch.Generator) -> Tensor:
    """Return masks (count, 1, 28, 28), zero in a square of up to 12 pixels a side, one elsewhere."""
    sides = torch.randint(0, HOLE_PIXELS_MAX + 1, (count, 1), generator=generator)
    corners = torch.randint(-HOLE_PIXELS_MAX // 2, SIDE - HOLE_PIXELS_MAX // 2, (2, count, 1), generator=generator)
    places = torch.arange(SIDE)
    down, across = ((places >= corner) & (places < corner + sides) for corner in corners)
    inside: Tensor = (down[:, :, None] & across[:, None, :]).unsqueeze(1)
    return 1.0 - inside.float()
