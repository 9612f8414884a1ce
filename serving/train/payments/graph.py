"""Write the payments graph: decision, explanation and energies in one pass.

    features (rows, d) -> known values (clipped to their ranges, codes rounded) and what is missing
      |-> ratios -> terms -> contributions -> + intercept -> logit -> probabilities
      |                           '-> the largest, most adverse first -> reason_codes
      '-> embedding -> predictor, once for each masked feature -> energy (mean scaled squared error), latent
              |-> whitened -> mahalanobis
              '-> minus its projection on the plane -> residual

Written node by node as the kiosk's is, and no step mixes rows. Every term and every embedding of a number is the same
thing: ramps, clipped between knots, times steps. So a term cannot fall where its steps are not negative, also in
float32: each ramp rises with its input, and rounding keeps order, where the order of the sum is the same for every row
(`_write_sum`; the runtime's ReduceSum groups by where a row stands in the batch). Reason code 0 says that nothing
further counts against the applicant; code c is term c - 1. Contributions that are not above 0 are no reasons.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from serving.train.graph import GraphBuilder, rows_of
from serving.train.payments.additive import AdditiveModel
from serving.train.payments.embedding import SCORE_MAX, Block
from serving.train.payments.masked import Surprise
from serving.train.payments.schema import Ratio, Schema
from serving.train.run import doubles_of

REASONS_MAX = 4  # as many as a notice of adverse action names: 12 CFR 1002, Supplement I, 9(b)(2)
FAR = 1e30  # in place of infinity: a bound that nothing reaches

Floats = NDArray[np.float64]


def reasons_shown(model: AdditiveModel) -> int:
    """How many reason codes a row has."""
    return min(REASONS_MAX, len(model.terms))


def write_payments_graph(schema: Schema, model: AdditiveModel, surprise: Surprise) -> bytes:
    """Return the model's bytes."""
    build = GraphBuilder()
    for name, value in (("zero", 0.0), ("half", 0.5), ("one", 1.0)):
        build.constant(name, np.array(value))
    build.constant("axis1", np.array([1], np.int64))
    build.constant("axis2", np.array([2], np.int64))
    _write_known(build, schema)
    _write_decision(build, schema, model)
    _write_embedding(build, surprise.blocks)
    _write_energy(build, surprise)
    _write_densities(build, surprise)
    terms = len(model.terms)
    return build.model(
        "payments",
        [rows_of("features", len(schema.features))],
        [
            rows_of("probabilities", 2),
            rows_of("logit"),
            rows_of("contributions", terms),
            rows_of("reason_codes", reasons_shown(model), kind=TensorProto.INT64),
            rows_of("latent", surprise.predictor.middle.out_features),
            rows_of("energy"),
            rows_of("mahalanobis"),
            rows_of("residual"),
        ],
    )


def _write_known(build: GraphBuilder, schema: Schema) -> None:
    """`known` (rows, d), 0 where missing; `absent` (rows, d), 1.0 where missing."""
    coded = [float(bool(feature.levels or feature.ranks)) for feature in schema.features]
    build.constant("tops", np.array([feature.top for feature in schema.features]))
    build.constant("rounding", 0.5 * np.array(coded))
    build.constant("coded", np.array(coded))
    build.node("Less", ["features", "zero"], "is_absent")
    build.node("Cast", ["is_absent"], "absent", to=TensorProto.FLOAT)
    build.node("Max", ["features", "zero"], "not_below")
    build.node("Min", ["not_below", "tops"], "within")
    build.node("Add", ["within", "rounding"], "within.half_up")
    build.node("Floor", ["within.half_up"], "whole")
    build.node("Sub", ["whole", "within"], "rounded_by")
    build.node("Mul", ["rounded_by", "coded"], "rounded_by.coded")
    build.node("Add", ["within", "rounded_by.coded"], "known")


def _write_decision(build: GraphBuilder, schema: Schema, model: AdditiveModel) -> None:
    names = [feature.name for feature in schema.features]
    ratios = {ratio.name: ratio for ratio in schema.ratios}
    values, absences = [], []
    for term in model.terms:
        if term.source in ratios:
            value, absence = _write_ratio(build, ratios[term.source], names)
        else:
            index = build.constant(f"{term.source}.index", np.array([names.index(term.source)], np.int64))
            value = build.node("Gather", ["known", index], f"{term.source}.value", axis=1)
            absence = build.node("Gather", ["absent", index], f"{term.source}.absence", axis=1)
        values.append(value)
        absences.append(absence)
    build.node("Concat", values, "terms.values", axis=1)
    build.node("Concat", absences, "terms.absent", axis=1)
    build.node("Greater", ["terms.absent", "half"], "terms.is_absent")
    _write_ramps(build, "terms", "terms.values", [(term.knots, term.steps) for term in model.terms], beyond=False)
    build.constant("terms.start", np.array([term.start for term in model.terms]))
    build.constant("terms.missing", np.array([term.missing for term in model.terms]))
    build.node("Add", ["terms.rise", "terms.start"], "terms.known")
    build.node("Where", ["terms.is_absent", "terms.missing", "terms.known"], "contributions")
    build.constant("intercept", np.array(model.intercept))
    _write_sum(build, "contributions", "terms.sum", axis=1, count=len(model.terms))
    build.node("Add", ["terms.sum", "intercept"], "logit")
    build.node("Neg", ["logit"], "logit.good")
    for name in ("logit.good", "logit"):
        build.node("Unsqueeze", [name, "axis1"], f"{name}.column")
    build.node("Concat", ["logit.good.column", "logit.column"], "logit.both", axis=1)
    build.node("Sigmoid", ["logit.both"], "probabilities")
    build.constant("reasons.count", np.array([reasons_shown(model)], np.int64))
    build.constant("reasons.one", np.array(1, np.int64))
    build.constant("reasons.none", np.array(0, np.int64))
    build.nodes.append(
        helper.make_node(
            "TopK", ["contributions", "reasons.count"], ["reasons.weights", "reasons.terms"], name="reasons", axis=1
        )
    )
    build.node("Greater", ["reasons.weights", "zero"], "reasons.adverse")
    build.node("Add", ["reasons.terms", "reasons.one"], "reasons.codes")
    build.node("Where", ["reasons.adverse", "reasons.codes", "reasons.none"], "reason_codes")


def _write_ratio(build: GraphBuilder, ratio: Ratio, names: Sequence[str]) -> tuple[str, str]:
    """Return the names of its value and of its absence, both (rows, 1)."""
    own = f"ratio.{ratio.name}"

    def column(feature: str) -> str:
        index = build.constant(f"{own}.{feature}.index", np.array([names.index(feature)], np.int64))
        return build.node("Gather", ["known", index], f"{own}.{feature}", axis=1)

    weights = np.array([[ratio.sum.get(name, 0.0)] for name in names])
    build.constant(f"{own}.weights", weights)
    build.constant(f"{own}.needs", np.array([[float(name in ratio.needs)] for name in names]))
    build.constant(f"{own}.over_min", np.array(ratio.over_min))
    build.node("MatMul", ["known", f"{own}.weights"], f"{own}.sum")
    build.node("Max", [f"{own}.sum", "zero"], f"{own}.gain")
    build.node("Max", [column(ratio.over), f"{own}.over_min"], f"{own}.over")
    value = build.node("Div", [f"{own}.gain", f"{own}.over"], f"{own}.share")
    if ratio.times:
        value = build.node("Mul", [value, column(ratio.times)], f"{own}.times")
    return value, build.node("MatMul", ["absent", f"{own}.needs"], f"{own}.absence")


def _write_ramps(
    build: GraphBuilder, own: str, values: str, pieces: Sequence[tuple[Floats, Floats]], *, beyond: bool
) -> None:
    """`own.rise` (rows, n): how far each of n columns has risen from its first knot.

    `pieces`: by column knots (m + 1,) and steps (m,). `beyond`: the first and the last piece go on past the ends.
    """
    longest = max(len(steps) for _, steps in pieces)
    shape = (len(pieces), longest)
    starts, widths, steps_of = np.zeros(shape), np.ones(shape), np.zeros(shape)
    lows, highs = np.zeros(shape), np.ones(shape)
    for row, (knots, steps) in enumerate(pieces):
        count = len(steps)
        starts[row, :count], widths[row, :count], steps_of[row, :count] = knots[:-1], np.diff(knots), steps
        if beyond and count:
            lows[row, 0], highs[row, count - 1] = -FAR, FAR
    for name, value in (
        ("starts", starts),
        ("widths", widths),
        ("steps", steps_of),
        ("lows", lows),
        ("highs", highs),
    ):
        build.constant(f"{own}.{name}", value)
    build.node("Unsqueeze", [values, "axis2"], f"{own}.spread")
    build.node("Sub", [f"{own}.spread", f"{own}.starts"], f"{own}.past")
    build.node("Div", [f"{own}.past", f"{own}.widths"], f"{own}.share")
    build.node("Max", [f"{own}.share", f"{own}.lows"], f"{own}.ramp_low")
    build.node("Min", [f"{own}.ramp_low", f"{own}.highs"], f"{own}.ramp")
    build.node("Mul", [f"{own}.ramp", f"{own}.steps"], f"{own}.climbs")
    if beyond:  # an embedding, where order would cost a dozen nodes and keep no promise
        build.node("ReduceSum", [f"{own}.climbs", "axis2"], f"{own}.rise", keepdims=0)
    else:
        _write_sum(build, f"{own}.climbs", f"{own}.rise", axis=2, count=longest)


def _write_sum(build: GraphBuilder, values: str, output: str, *, axis: int, count: int) -> None:
    """Sum over an axis of `count` elements, from the first to the last, and drop the axis."""
    parts = [f"{output}.part{index}" for index in range(count)]
    build.nodes.append(helper.make_node("Split", [values], parts, name=f"{output}.split", axis=axis))
    total = parts[0]
    for index in range(1, count):
        total = build.node("Add", [total, parts[index]], f"{output}.to{index}")
    build.node("Squeeze", [total, f"axis{axis}"], output)


def _write_embedding(build: GraphBuilder, blocks: Sequence[Block]) -> None:
    """`embedded` (rows, E), block after block."""
    numbers = [index for index, block in enumerate(blocks) if not block.levels]
    build.constant("numbers.index", np.array(numbers, np.int64))
    build.constant("scores.first", np.array([blocks[index].scores[0] for index in numbers]))
    build.constant("scores.low", np.array(-SCORE_MAX))
    build.constant("scores.high", np.array(SCORE_MAX))
    build.node("Gather", ["known", "numbers.index"], "numbers", axis=1)
    build.node("Gather", ["absent", "numbers.index"], "numbers.absent", axis=1)
    pieces = [(blocks[index].knots, np.diff(blocks[index].scores)) for index in numbers]
    _write_ramps(build, "scores", "numbers", pieces, beyond=True)
    build.node("Add", ["scores.rise", "scores.first"], "scores.free")
    build.node("Clip", ["scores.free", "scores.low", "scores.high"], "scores.bounded")
    build.node("Sub", ["one", "numbers.absent"], "numbers.present")
    build.node("Mul", ["scores.bounded", "numbers.present"], "scores")
    parts = []
    for index, block in enumerate(blocks):
        own = f"block{index}"
        if not block.levels:
            place = build.constant(f"{own}.place", np.array([numbers.index(index)], np.int64))
            parts.append(build.node("Gather", ["scores", place], f"{own}.score", axis=1))
        if block.centre.size:
            column = build.constant(f"{own}.index", np.array([index], np.int64))
            indicators = build.node("Gather", ["absent", column], f"{own}.absent", axis=1)
            if block.levels:
                indicators = _write_levels(build, own, column, block.levels, indicators)
            build.constant(f"{own}.centre", block.centre)
            build.constant(f"{own}.scale", block.scale)
            build.node("Sub", [indicators, f"{own}.centre"], f"{own}.centred")
            parts.append(build.node("Mul", [f"{own}.centred", f"{own}.scale"], f"{own}.scaled"))
    build.node("Concat", parts, "embedded", axis=1)


def _write_levels(build: GraphBuilder, own: str, column: str, levels: int, absent: str) -> str:
    """Return the name of the indicators (rows, levels + 1), "missing" last."""
    build.constant(f"{own}.levels", np.arange(levels, dtype=np.float64))
    build.node("Gather", ["known", column], f"{own}.code", axis=1)
    build.node("Equal", [f"{own}.code", f"{own}.levels"], f"{own}.is_level")
    build.node("Cast", [f"{own}.is_level"], f"{own}.level", to=TensorProto.FLOAT)
    build.node("Sub", ["one", absent], f"{own}.present")
    build.node("Mul", [f"{own}.level", f"{own}.present"], f"{own}.known")
    return build.node("Concat", [f"{own}.known", absent], f"{own}.indicators", axis=1)


def _write_energy(build: GraphBuilder, surprise: Surprise) -> None:
    net = surprise.predictor
    state = doubles_of(net)
    blocks = state["blocks"]
    build.constant("visible", 1.0 - blocks)
    build.constant("seen.weight", state["seen.weight"].T)
    build.constant("seen.masked", state["masked"])
    build.constant("middle.weight", state["middle.weight"].T)
    build.constant("middle.bias", state["middle.bias"])
    build.constant("out.weight", state["out.weight"].T)
    build.constant("out.bias", state["out.bias"])
    # The root of what a squared error weighs: its feature's scale, and the mean over features.
    build.constant("errors.weight", blocks / surprise.error_scales[:, None] / np.sqrt(len(blocks)))
    build.constant("errors.axes", np.array([1, 2], np.int64))
    build.node("Unsqueeze", ["embedded", "axis1"], "embedded.once")
    build.node("Mul", ["embedded.once", "visible"], "embedded.masked")
    build.node("MatMul", ["embedded.masked", "seen.weight"], "seen.mixed")
    build.node("Add", ["seen.mixed", "seen.masked"], "seen.sum")
    build.node("Relu", ["seen.sum"], "seen")
    build.node("MatMul", ["seen", "middle.weight"], "middle.mixed")
    build.node("Add", ["middle.mixed", "middle.bias"], "middle.sum")
    build.node("Relu", ["middle.sum"], "middle")
    build.node("ReduceMean", ["middle"], "latent", axes=[1], keepdims=0)
    build.node("MatMul", ["middle", "out.weight"], "out.mixed")
    build.node("Add", ["out.mixed", "out.bias"], "predicted")
    build.node("Sub", ["predicted", "embedded.once"], "errors")
    build.node("Mul", ["errors", "errors.weight"], "errors.weighted")
    build.node("Mul", ["errors.weighted", "errors.weighted"], "errors.squared")
    build.node("ReduceSum", ["errors.squared", "errors.axes"], "energy", keepdims=0)


def _write_densities(build: GraphBuilder, surprise: Surprise) -> None:
    build.constant("gaussian.whitening", surprise.gaussian.whitening)
    build.constant("gaussian.mean", -surprise.gaussian.mean)
    build.node("Gemm", ["embedded", "gaussian.whitening", "gaussian.mean"], "gaussian.white")
    build.node("ReduceL2", ["gaussian.white"], "mahalanobis", axes=[1], keepdims=0)
    plane = surprise.plane
    build.constant("plane.mean", plane.mean)
    build.constant("plane.components", plane.components)
    build.constant("plane.expansion", plane.components.T)
    build.constant("plane.scale", np.array(1.0 / np.sqrt(len(plane.mean))))
    build.node("Sub", ["embedded", "plane.mean"], "plane.centred")
    build.node("MatMul", ["plane.centred", "plane.components"], "plane.coordinates")
    build.node("MatMul", ["plane.coordinates", "plane.expansion"], "plane.expected")
    build.node("Sub", ["plane.centred", "plane.expected"], "plane.left")
    build.node("ReduceL2", ["plane.left"], "plane.norm", axes=[1], keepdims=0)
    build.node("Mul", ["plane.norm", "plane.scale"], "residual")
