"""Models: how each one does, its speed, drift, labels, cost and replicas."""

from dashboards.grafana import GREEN, RED, color_of, dashboard, lines, rows, stat, steps
from dashboards.terms import MUST_BE_ZERO, RATE, SLOW, quantile

OF = '@, model=~"$model"'


def on_cluster(state: str) -> str:
    """Replicas of all Serve applications, as the gateway that knows most of each heard it."""
    return f'sum(max by (application) (stockade_ray_replicas{{@, state="{state}"}}))'


NOW = (
    stat("Predictions", "Rows that models ran, a second.", f"sum(rate(stockade_rows_total{{{OF}}}{RATE}))", "rowsps"),
    stat(
        "Computing, per 1,000",
        "Time that a thread was busy for 1,000 predictions, in the dearest model.",
        f"max(stockade:compute_seconds:per_1000_rows_5m{{{OF}}})",
        "s",
    ),
    stat(
        "Cost, per 1,000",
        "Units charged for 1,000 predictions (`cost_per_row` of the policy).",
        f"max(stockade:cost_units:per_1000_rows_5m{{{OF}}})",
        "none",
        decimals=0,
    ),
    stat(
        "Replicas ready",
        "Engines that answer.",
        f'sum(stockade_replicas{{{OF}, state="ready"}})',
        "short",
        thresholds=steps((None, RED), (1, GREEN)),
        runbooks=("StockadeModelUnserved",),
    ),
    stat(
        "Replicas missing",
        "Engines that do not, and what Ray Serve wants and does not have.",
        f'sum(stockade_replicas{{{OF}, state="not_ready"}}) + (clamp_min({on_cluster("wanted")} - '
        f"{on_cluster('running')}, 0) or vector(0))",
        "short",
        thresholds=MUST_BE_ZERO,
        runbooks=("StockadeReplicasMissing", "StockadeRayReplicasMissing"),
    ),
    stat(
        "Rows in a batch",
        "On average. Near `engine.batch_rows_max` the model is the bottleneck.",
        f"sum(rate(stockade_batch_rows_sum{{{OF}}}{RATE})) / sum(rate(stockade_batch_rows_count{{{OF}}}{RATE}))",
        "none",
        decimals=1,
    ),
)

SPEED = (
    lines(
        "Latency",
        "Of whole requests, by model.",
        [(quantile(q, "model", f'{OF}, stage="total"'), f"{{{{model}}}} p{round(100 * q)}") for q in (0.5, 0.99)],
        "s",
        runbooks=SLOW,
    ),
    lines(
        "Waiting and running, p99",
        "Time in the model's queue, in the model, in its screens.",
        [(quantile(0.99, "stage", f'{OF}, stage=~"queue|infer|screen"'), "{{stage}}")],
        "s",
    ),
)

DRIFT = (
    lines(
        "Confidence",
        "Probability of the top class. When it moves and the model did not, the inputs have changed.",
        [(quantile(q, "", OF, "stockade_model_score"), f"p{round(100 * q)}") for q in (0.1, 0.25, 0.5)],
        "percentunit",
    ),
    lines(
        "Drift",
        "Evidence that p-values have left the calibration (a ticket above 1), their distance from uniform "
        "(above 0.1), jumps of a mean (above 0.05). `scores` has no alert.",
        [(f"max by (model, version, detector) (stockade_model_drift{{{OF}}})", "{{model}} {{version}} {{detector}}")],
        "none",
        soft_most=0.3,
        runbooks=("StockadeModelDrift", "StockadeCanaryRolledBack", "StockadeRoutingCollapsed"),
    ),
    lines(
        "Rows in a batch, rows waiting",
        "Batches grow with the load.",
        [
            (
                (
                    f"sum by (model) (rate(stockade_batch_rows_sum{{{OF}}}{RATE}))"
                    f" / sum by (model) (rate(stockade_batch_rows_count{{{OF}}}{RATE}))"
                ),
                "{{model}} in a batch",
            ),
            (f"sum by (model) (stockade_queue_depth{{{OF}}})", "{{model}} waiting"),
        ],
        "short",
    ),
)

VERSION = "{{model}} {{version}}, {{source}}"
LABELS = (
    lines(
        "Right, by labels that came later",
        "Of the feedback window. A ticket below what the manifest says, less three standard deviations, from "
        "200 labels on. Labels of others passed the gate, which is too kind.",
        [
            (f"stockade:model_accuracy:by_labels{{{OF}}}", VERSION),
            (f"stockade:model_accuracy:low{{{OF}}}", f"{VERSION}: least that chance explains"),
        ],
        "percentunit",
        least=None,
        runbooks=("StockadeAccuracyFell",),
    ),
    lines(
        "Confidence off, by labels that came later",
        "Expected calibration error, and the part of it that chance does not explain. A ticket where that part "
        "is above what the manifest says.",
        [
            (f"max by (model, version, source) (stockade_model_calibration_error_ratio{{{OF}}})", VERSION),
            (f"stockade:model_calibration_error:beyond_noise{{{OF}}}", f"{VERSION}: beyond chance"),
            (
                f"max by (model, version) (stockade_model_calibration_error_promised_ratio{{{OF}}})",
                "{{model}} {{version}}: manifest",
            ),
        ],
        "percentunit",
        runbooks=("StockadeCalibrationFell",),
    ),
)

COST = (
    lines(
        "Computing time by tenant class",
        "Seconds of a busy thread, a second: the class's share of a processor.",
        [(f"sum by (tenant_class) (rate(stockade_compute_seconds_total{{{OF}}}{RATE}))", "{{tenant_class}}")],
        "percentunit",
        stacked=True,
    ),
    lines(
        "Computing time for 1,000 predictions",
        "Falls when batches grow.",
        [
            (
                (
                    f"1000 * sum by (model) (rate(stockade_compute_seconds_total{{{OF}}}{RATE}))"
                    f" / sum by (model) (rate(stockade_rows_total{{{OF}}}{RATE}))"
                ),
                "{{model}}",
            )
        ],
        "s",
    ),
    lines(
        "Replicas",
        "Engines by state; on a Ray cluster also replicas by application, as Serve wants them and has them.",
        [
            (
                (
                    f"sum by (state) (stockade_replicas{{{OF}}})"
                    " or label_join(max by (application, state) (stockade_ray_replicas{@}),"
                    ' "state", " ", "application", "state")'
                ),
                "{{state}}",
            )
        ],
        "short",
        overrides=(color_of("ready", GREEN), color_of("not_ready", RED)),
        runbooks=("StockadeReplicasMissing", "StockadeRayReplicasMissing", "StockadeModelUnserved"),
    ),
)

BOARD = dashboard(
    "stockade-models",
    "Stockade: models",
    "How each model does: speed, drift, labels, cost, replicas.",
    rows(
        ("Now", 4, NOW), ("Speed", 8, SPEED), ("Drift", 8, DRIFT), ("Labels", 8, LABELS), ("Cost and replicas", 8, COST)
    ),
    by_model=True,
)
