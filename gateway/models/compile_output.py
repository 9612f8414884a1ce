"""What the policy says of a version's output, as the rule that the pipeline applies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from defenses.budget.output import ClassRule, OutputRule, TextRule, allowed_classes
from defenses.errors import RuleInvalid
from gateway.config.document import PolicyRejected
from serving.bundles.manifest import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.policy.output import Output
    from serving.bundles.bundle import Bundle

ABSTAINED = TensorSpec("abstained", "BOOL", (-1,))
"""The output that a version has besides its own, last, where its policy may keep an answer back."""


def output_rule_of(
    output: Output | None, bundle: Bundle, prediction: str | None, given: Collection[TensorSpec]
) -> OutputRule | None:
    """Return the rule, None where the policy has none. `given` are the outputs that everybody may have.

    Raises:
        PolicyRejected: the bundle has not what it speaks of, or another output would tell what is kept back.
    """
    if output is None:
        return None
    where = f"models.{bundle.name}.output"
    if any(spec.name == ABSTAINED.name for spec in bundle.outputs):
        raise PolicyRejected([f"{where}: the bundle has an output {ABSTAINED.name!r} of its own"])
    listed = output.allow is not None or output.deny is not None
    classes = None
    if listed or output.confidence_min is not None:
        if prediction is None:
            raise PolicyRejected([f"{where}: the bundle has no output of rows x classes that this could be about"])
        classes = class_rule_of(output, bundle, where) if listed else ClassRule(None, output.confidence_min or 0.0)
    if listed and (
        telling := [spec.name for spec in given if tells_classes(spec, prediction, len(bundle.class_names))]
    ):
        problem = f"{telling[0]!r} tells of the classes that are kept back; leave it out of `outputs`, or reserve it"
        raise PolicyRejected([f"{where}: {problem}"])
    return OutputRule(classes, text_rules_of(output, bundle, where))


def class_rule_of(output: Output, bundle: Bundle, where: str) -> ClassRule:
    """Return which classes may be given. Raises PolicyRejected."""
    try:
        allowed = allowed_classes(bundle.class_names, allow=output.allow or (), deny=output.deny or ())
    except RuleInvalid as problem:
        raise PolicyRejected([f"{where}.{'allow' if output.deny is None else 'deny'}: {problem.problem}"]) from problem
    return ClassRule(allowed, output.confidence_min or 0.0)


def tells_classes(spec: TensorSpec, prediction: str | None, classes: int) -> bool:
    """Say whether an output has a number for each class, as logits do."""
    return spec.name != prediction and len(spec.shape) > 1 and spec.shape[-1] == classes and spec.datatype != "BYTES"


def text_rules_of(output: Output, bundle: Bundle, where: str) -> dict[str, TextRule]:
    """Return the rule of each text output. Raises PolicyRejected."""
    if output.text is None:
        return {}
    datatypes = {spec.name: spec.datatype for spec in bundle.outputs}
    for name in output.text.outputs:
        if datatypes.get(name) != "BYTES":
            raise PolicyRejected([f"{where}.text.outputs: the bundle has no output {name!r} of BYTES"])
    try:
        rule = TextRule(output.text.characters_max, output.text.denied)
    except RuleInvalid as problem:
        raise PolicyRejected([f"{where}.text.{problem}"]) from problem
    return dict.fromkeys(output.text.outputs, rule)
