"""The one place where the Adversarial Robustness Toolbox is imported: evaluation and calibration, never the hot path.

What is done about defects of ART 1.20.1 is said where it is done. Importing ART writes a configuration file into the
home directory and reconfigures logging, so it happens only when an attack runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

BATCH_ROWS = 256
ITERATIONS = 1_000_000  # of attacks that are stopped from outside
QUERY_ATTACKS = ("boundary", "hop-skip-jump", "sign-opt", "zoo")
"""What `query_attack` runs: zoo goes by scores, the others by labels alone. ART's Square is not among them: it takes no
estimator that is only a function, and 66 % of what it asks it has asked before."""


@dataclass(frozen=True, slots=True)
class AutoAttackBudget:
    """How hard AutoAttack tries: steps and restarts of the gradient attacks, towards how many of the classes that come
    next in a row's answer, queries of the random search.
    """

    gradient_steps: int = 100
    restarts: int = 1
    targets: int = 3
    queries: int = 500


SMOKE_BUDGET = AutoAttackBudget(gradient_steps=5, targets=1, queries=20)


def auto_attack(
    logits: Any,
    losses: tuple[Any, Any],
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    classes: int,
    radius: float,
    budget: AutoAttackBudget,
    seed: int,
) -> dict[str, NDArray[np.bool_]]:
    """Attack a torch module with AutoAttack's attacks (Croce and Hein 2020, arXiv 2003.01690), worst case per row.

    Projected gradient descent with automatic steps on the cross-entropy, on the ratio, and on the ratio towards other
    classes, the nearest first; DeepFool; and the square attack. Each goes on with the rows that stood before it.

    Args:
        logits: a torch module, images float (n, 1, 28, 28) to logits (n, classes).
        losses: torch losses of (logits, labels): cross-entropy, and the difference-of-logits ratio. ART's own ratio
            takes each row's numerator from other rows and is not used.
        images: float32 (n, 1, h, w) in [0, 1].
        labels: the true classes (n,).
        classes: how many there are.
        radius: the largest change of a pixel.
        budget: how hard to try.
        seed: where the attacks' chance comes from; NumPy's global generator is set to it, which is all ART has.

    Returns by stage, in the order they ran, which rows (n,) were right however they had been changed up to then.
    """
    from art.estimators.classification import PyTorchClassifier

    np.random.seed(seed)  # noqa: NPY002 - it is all ART has
    cross_entropy, ratio = (
        PyTorchClassifier(logits, loss, images.shape[1:], nb_classes=classes, clip_values=(0.0, 1.0), device_type="cpu")
        for loss in losses
    )

    def answers(rows: NDArray[np.float32]) -> NDArray[np.intp]:
        return np.asarray(np.asarray(cross_entropy.predict(rows)).argmax(axis=1), np.intp)

    ranked = _ranked(np.asarray(cross_entropy.predict(images)), labels)
    alive: NDArray[np.bool_] = answers(images) == labels
    found = {"clean": alive.copy()}
    for name, attack, ranks in _stages(cross_entropy, ratio, budget, radius=radius, classes=classes):
        for rank in ranks:  # 0: away from the true class; otherwise: towards the one of that rank
            rows = np.flatnonzero(alive)
            if len(rows):
                tried = _within(attack.generate(images[rows], y=ranked[rows, rank]), images[rows], radius)
                alive[rows] = answers(tried) == labels[rows]
        found[name] = alive.copy()
    return found


def _ranked(scores: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the classes of each row, (n, classes): the true one, then the others as the model ranks them."""
    others = scores.copy()
    others[np.arange(len(labels)), labels] = np.inf
    return np.argsort(-others, axis=1)


def _within(rows: NDArray[np.float32], images: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Return the rows moved to the nearest point of the ball around each image."""
    low, high = np.maximum(images - radius, 0.0), np.minimum(images + radius, 1.0)
    return np.asarray(np.clip(rows, low, high), np.float32)


def _stages(
    cross_entropy: Any, ratio: Any, budget: AutoAttackBudget, *, radius: float, classes: int
) -> list[tuple[str, Any, Sequence[int]]]:
    """Return AutoAttack's attacks in their order: each with its name, and the ranks of the classes it goes to."""
    from art.attacks import evasion

    def ascent(estimator: Any, *, targeted: bool = False) -> Any:
        return evasion.AutoProjectedGradientDescent(
            estimator,
            norm=np.inf,
            eps=radius,
            eps_step=2 * radius,
            max_iter=budget.gradient_steps,
            targeted=targeted,
            nb_random_init=budget.restarts,
            batch_size=BATCH_ROWS,
            loss_type=None,  # the estimator's own
            verbose=False,
        )

    random = evasion.SquareAttack(
        cross_entropy, norm=np.inf, eps=radius, max_iter=budget.queries, nb_restarts=1, verbose=False
    )
    fool = evasion.DeepFool(cross_entropy, max_iter=budget.gradient_steps, nb_grads=classes, verbose=False)
    return [
        ("apgd_ce", ascent(cross_entropy), [0]),
        ("apgd_dlr", ascent(ratio), [0]),
        ("apgd_t", ascent(ratio, targeted=True), range(1, min(budget.targets, classes - 1) + 1)),
        ("deepfool", fool, [0]),
        ("square", random, [0]),
    ]


def query_attack(
    name: str,
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    image: NDArray[np.float32],
    label: int,
    *,
    start: NDArray[np.float32],
    classes: int,
    seed: int,
) -> None:
    """Attack one image by questions alone, until `predict` raises: ART's attacks know no budget that they keep.

    What came of it is the caller's to see: every question passes through `predict`. HopSkipJump minimises the largest
    change of a pixel; Boundary (Brendel et al., arXiv 1712.04248), ZOO (Chen et al., arXiv 1708.03999) and SignOPT
    (Cheng et al., arXiv 1909.10773) the length of the change. NumPy's global generator is set to the seed, which is all
    ART has: not for several threads. An attack that finds no beginning, or is done, returns. SignOPT draws its first
    directions itself; a screen that knows noise refuses most of them.

    Args:
        name: of QUERY_ATTACKS.
        predict: float32 (n, h, w) in [0, 1] to probabilities (n, classes).
        image: float32 (h, w).
        label: its true class.
        start: float32 (h, w) of another class, from where HopSkipJump and Boundary walk towards the image.
        classes: how many there are.
        seed: where its chance comes from.
    """
    from art.estimators.classification import BlackBoxClassifier

    def asked(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return predict(np.clip(np.asarray(rows, np.float32).reshape(len(rows), *image.shape), 0.0, 1.0))

    np.random.seed(seed)  # noqa: NPY002 - it is all ART has
    model = BlackBoxClassifier(asked, (1, *image.shape), classes, clip_values=(0.0, 1.0))
    further = {"x_adv_init": start[None, None]} if name in {"boundary", "hop-skip-jump"} else {}
    _asking(name, model).generate(image[None, None], y=np.eye(classes)[[label]], **further)


def _asking(name: str, model: Any) -> Any:
    """Return ART's attack of this name, which goes on until it is stopped from outside."""
    from art.attacks import evasion

    made: dict[str, Callable[[], Any]] = {
        "hop-skip-jump": lambda: evasion.HopSkipJump(
            model, norm=np.inf, max_iter=ITERATIONS, max_eval=1_000, init_eval=50, verbose=False
        ),
        "boundary": lambda: evasion.BoundaryAttack(model, targeted=False, max_iter=ITERATIONS, verbose=False),
        "sign-opt": lambda: evasion.SignOPTAttack(
            model, targeted=False, max_iter=ITERATIONS, query_limit=ITERATIONS, k=50
        ),
        "zoo": lambda: evasion.ZooAttack(
            model,
            max_iter=ITERATIONS,
            use_resize=False,
            use_importance=False,
            nb_parallel=64,
            variable_h=0.1,  # what answers rounded to three decimals still tell
            learning_rate=0.05,
            abort_early=False,
            verbose=False,
        ),
    }
    return made[name]()
