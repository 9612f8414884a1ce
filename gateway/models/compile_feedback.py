"""From the policy's words about labels, and what a bundle brings for them, to rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from defenses.errors import DefenseError
from defenses.labels.feedback import Consistency
from gateway.config.document import PolicyRejected
from gateway.models.rules import Bounds, FeedbackRules

if TYPE_CHECKING:
    from gateway.policy.feedback import Feedback
    from gateway.policy.policy import Policy
    from serving.bundles.bundle import Bundle

NS_PER_MS = 1_000_000
TRUSTED = "feedback.latents"


def feedback_keys_of(policy: Policy) -> dict[str, frozenset[bytes]]:
    """Return with which keys each principal signs labels."""
    return {
        name: frozenset(map(bytes.fromhex, principal.feedback_keys))
        for name, principal in policy.principals.items()
        if principal.feedback_keys
    }


def bounds_of(feedback: Feedback) -> Bounds:
    """Return how much is kept."""
    return Bounds(feedback.answers_max, feedback.items_max, feedback.window_ms * NS_PER_MS)


def feedback_rules(feedback: Feedback, bundle: Bundle, prediction: str | None, *, needed: bool) -> FeedbackRules | None:
    """Return how labels of a model version are judged; None where its bundle brings nothing for it and is not `needed`.

    Raises:
        PolicyRejected: it is needed, and what its bundle brings will not do.
    """
    if not needed and TRUSTED not in bundle.calibration:
        return None
    where = f"models.{bundle.name}.feedback"
    latent = latent_of(bundle)
    if prediction is None or latent is None or not bundle.class_names:
        raise PolicyRejected([f"{where}: the bundle has no prediction of named classes, or no latent of rows x values"])
    try:
        consistency = Consistency.load(bundle.calibration)
    except DefenseError as problem:
        advice = "make it with `stockade defenses calibrate`"
        raise PolicyRejected(
            [f"{where}: the bundle has no trusted rows to hold labels against: {problem}; {advice}"]
        ) from problem
    if consistency.classes != len(bundle.class_names):
        raise PolicyRejected(
            [f"{where}: the trusted rows are of {consistency.classes} classes, the bundle's of another number"]
        )
    return FeedbackRules(
        consistency=consistency,
        latent=latent,
        prediction=prediction,
        classes=bundle.class_names,
        inconsistent_alpha=feedback.inconsistent_alpha,
        rows_max=feedback.rows_max,
        bounds=bounds_of(feedback),
        trusted=frozenset(feedback.trusted),
    )


def latent_of(bundle: Bundle) -> str | None:
    """Return the output that holds a row's place in the model's own space, if it has one of rows x values."""
    flat = {spec.name for spec in bundle.outputs if len(spec.shape) == 2}
    return next((name for name in bundle.manifest["roles"].get("latent", ()) if name in flat), None)
