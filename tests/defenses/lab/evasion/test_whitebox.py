"""The white-box attacks: they stay in their norm, find what is there, and count what a pipeline lets through."""

from __future__ import annotations

import pytest
import torch

from defenses.lab.evasion.whitebox import AdaptivePgd, evades, static_pgd
from defenses.lab.pipeline import Judged


class Toy(torch.nn.Module):
    """Two classes by the mean of an image; the detector's score is the last pixel, and from `limit` on it flags."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, images):
        mean = images.flatten(1).mean(1)
        return 20 * torch.stack([0.5 - mean, mean - 0.5], 1)

    def judged(self, images):
        score = images.flatten(1)[:, -1].double()
        excess = score - self.limit
        flagged = excess.detach() > 0
        return Judged(
            {"logits": self(images)},
            {"last": score},
            {"last": (self.limit, 9.0)},
            flagged,
            torch.ones_like(flagged),
            excess,
        )


IMAGES = torch.full((6, 4, 4), 0.45)
LABELS = torch.zeros(6, dtype=torch.long)
SMALL = {"steps": 20, "restarts": 2, "weights": (0.0, 5.0)}


def seeded():
    return torch.Generator().manual_seed(3)


def test_the_detector_in_the_loss_is_what_gets_past():
    """Raising every pixel raises the last one past its limit: only who lowers the score as well evades."""
    toy = Toy(limit=0.46)
    blind = AdaptivePgd(0.06, steps=20, restarts=1, weights=(0.0,)).run(toy, IMAGES, LABELS, seeded())
    seeing = AdaptivePgd(0.06, **SMALL).run(toy, IMAGES, LABELS, seeded())
    static = static_pgd(toy, IMAGES, LABELS, 0.06, seeded())
    assert not evades(toy.judged(static), LABELS).any()
    assert not blind.evaded.any()
    assert seeing.evaded.all()


def test_what_it_gives_back_is_what_it_claims():
    toy = Toy(limit=0.46)
    found = AdaptivePgd(0.06, **SMALL).run(toy, IMAGES, LABELS, seeded())
    assert (evades(toy.judged(found.images), LABELS) == found.evaded).all()
    assert (found.images - IMAGES).abs().max() <= 0.06 + 1e-6
    assert found.images.min() >= 0
    assert found.images.max() <= 1


def test_out_of_reach_stays_out_of_reach():
    found = AdaptivePgd(0.02, **SMALL).run(Toy(limit=1.0), IMAGES, LABELS, seeded())
    assert not found.evaded.any()
    assert (found.images - IMAGES).abs().max() <= 0.02 + 1e-6


def test_the_same_seed_finds_the_same():
    toy = Toy(limit=0.46)
    one, other = (AdaptivePgd(0.06, **SMALL).run(toy, IMAGES, LABELS, seeded()).images for _ in range(2))
    assert torch.equal(one, other)


def test_wrong_untouched_counts_unless_it_is_seen():
    wrong = torch.ones(6, dtype=torch.long)
    assert AdaptivePgd(0.0, steps=1, restarts=1).run(Toy(limit=1.0), IMAGES, wrong, seeded()).evaded.all()
    assert not evades(Toy(limit=0.0).judged(IMAGES), wrong).any()


def test_a_row_done_is_left_alone():
    """Rounds that follow see only the rows that still stand."""
    seen = []

    class Watched(Toy):
        def judged(self, images):
            seen.append(len(images))
            return super().judged(images)

    labels = torch.tensor([1, 1, 1, 0, 0, 0])
    AdaptivePgd(0.01, steps=2, restarts=1, weights=(0.0,)).run(Watched(limit=1.0), IMAGES, labels, seeded())
    assert seen[0] == 6
    assert set(seen[1:]) == {3}


@pytest.mark.parametrize("eot", [1, 3])
def test_averaging_slopes_changes_nothing_where_nothing_is_random(eot):
    toy = Toy(limit=0.46)
    usual = AdaptivePgd(0.06, **SMALL).run(toy, IMAGES, LABELS, seeded())
    assert torch.equal(AdaptivePgd(0.06, **SMALL, eot=eot).run(toy, IMAGES, LABELS, seeded()).images, usual.images)
