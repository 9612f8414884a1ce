"""The four dashboards: what is on them, and what each query asks."""

from typing import Any

from model import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Panel,
    bars,
    color_of,
    dashboard,
    dashed,
    lines,
    rows,
    stat,
    steps,
)

RATE = "[$__rate_interval]"
MUST_BE_ZERO = steps((None, GREEN), (1, RED))
OUTCOMES = (
    color_of("served", GREEN),
    color_of("refused", ORANGE),
    color_of("failed", RED),
    color_of("outcome-unknown", PURPLE),
)
REASONS = (
    color_of("INPUT_REJECTED", RED),
    color_of("RATE_LIMITED", ORANGE),
    color_of("CREDENTIAL_INVALID", PURPLE),
    color_of("TENSOR_INVALID", BLUE),
    color_of("CREDENTIAL_MISSING", GREY),
)
VERDICTS = (color_of("pass", GREEN), color_of("flag", YELLOW), color_of("refuse", RED))
BURN = ("StockadeAvailabilityBurnFast", "StockadeAvailabilityBurnSlow")
SLOW = ("StockadeLatencyBurnFast", "StockadeLatencyBurnSlow")
SCREENS = ("StockadeScreenFlagsMore", "StockadeScreenFlagsLess")


def quantile(q: float, by: str, selector: str, metric: str = "stockade_request_duration_seconds") -> str:
    """A quantile of a histogram, by labels."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}{RATE})))"


def service() -> dict[str, Any]:
    now = (
        (4, stat("Requests", "Calls that ended, a second.", f"sum(rate(stockade_requests_total{{@}}{RATE}))", "reqps")),
        (
            4,
            stat(
                "Availability, 1 h",
                "Share of requests that a model should have answered and did. The objective is 99.9 %.",
                "1 - max(stockade:availability_errors:ratio_rate1h{@})",
                "percentunit",
                thresholds=steps((None, RED), (0.99, ORANGE), (0.999, GREEN)),
                decimals=2,
                runbooks=BURN,
            ),
        ),
        (
            4,
            stat(
                "Latency, p99",
                "Of the slowest model, over five minutes. The objective is 99 % within 50 ms.",
                "max(stockade:request_duration_seconds:p99_5m{@})",
                "s",
                thresholds=steps((None, GREEN), (0.05, ORANGE), (0.25, RED)),
                runbooks=SLOW,
            ),
        ),
        (4, stat("In flight", "Calls being worked on.", "sum(stockade_inflight_requests{@})", "short")),
        (
            4,
            stat(
                "Workers",
                "Gateway workers that are alive, on all hosts.",
                "sum(stockade_build_info{@})",
                "short",
                thresholds=steps((None, RED), (1, GREEN)),
                runbooks=("StockadeDown", "StockadeNoHosts", "StockadeDependencyDown"),
            ),
        ),
        (
            4,
            stat(
                "Certificate",
                "Time until the first certificate expires.",
                "min(stockade_cert_expiry_timestamp_seconds{@}) - time()",
                "s",
                thresholds=steps((None, RED), (3 * 86_400, ORANGE), (30 * 86_400, GREEN)),
                decimals=1,
                runbooks=("StockadeCertificateExpires", "StockadeCertificateExpiresSoon"),
            ),
        ),
    )
    traffic = (
        (
            12,
            lines(
                "Requests by outcome",
                "Every call ends in one of these; each has one record in the audit log.",
                [(f"sum by (outcome) (rate(stockade_requests_total{{@}}{RATE}))", "{{outcome}}")],
                "reqps",
                stacked=True,
                overrides=OUTCOMES,
            ),
        ),
        (
            12,
            lines(
                "Refusals and failures by reason",
                "The reasons are those that callers see in brackets.",
                [(f'sum by (reason) (rate(stockade_requests_total{{@, reason!="OK"}}{RATE}))', "{{reason}}")],
                "reqps",
                overrides=REASONS,
            ),
        ),
    )
    models = '@, stage="total", model!=""'
    latency = (
        (
            12,
            lines(
                "Latency",
                "From the first header to the end, of requests for a model.",
                [(quantile(q, "", models), f"p{round(100 * q)}") for q in (0.5, 0.9, 0.99)],
                "s",
                overrides=(color_of("p50", GREEN), color_of("p90", YELLOW), color_of("p99", RED)),
                runbooks=SLOW,
            ),
        ),
        (
            12,
            lines(
                "Latency by stage, p99",
                "Where the time goes. `audit` is the wait until the record is durable.",
                [(quantile(0.99, "stage", '@, stage!="total", model!=""'), "{{stage}}")],
                "s",
            ),
        ),
    )
    windows = ("5m", "1h", "6h")
    burning = steps((None, GREEN), (6, ORANGE), (14.4, RED))
    objectives = (
        (
            8,
            lines(
                "Availability: burn rate",
                "How many times too fast the error budget of 0.1 % is spent. It pages at 14.4 in an hour, 6 in six.",
                [(f"max(stockade:availability_errors:ratio_rate{window}{{@}}) / 0.001", window) for window in windows],
                "none",
                soft_most=16,
                thresholds=burning,
                runbooks=BURN,
            ),
        ),
        (
            8,
            lines(
                "Latency: burn rate",
                "How many times too fast the budget of 1 % of slow requests is spent.",
                [(f"max(stockade:latency_slow:ratio_rate{window}{{@}}) / 0.01", window) for window in windows],
                "none",
                soft_most=16,
                thresholds=burning,
                runbooks=SLOW,
            ),
        ),
        (
            8,
            lines(
                "Calls by gRPC status",
                "What clients see.",
                [(f"sum by (grpc_code) (rate(grpc_server_handled_total{{@}}{RATE})) > 0", "{{grpc_code}}")],
                "reqps",
                stacked=True,
                overrides=(color_of("OK", GREEN),),
            ),
        ),
    )
    return dashboard(
        "stockade-service",
        "Stockade: service overview",
        "Is it serving, how fast, and if not, why.",
        rows(("Now", 4, now), ("Traffic", 8, traffic), ("Latency", 8, latency), ("Objectives", 8, objectives)),
    )


def security() -> dict[str, Any]:
    verdicts = "stockade_screen_verdicts_total"
    per_screen = "job, model, screen"
    judged = f"sum(rate({verdicts}{{@}}{RATE}))"
    now = (
        (4, stat("Rows judged", "Rows that a screen has judged, a second.", judged, "rowsps")),
        (
            4,
            stat(
                "Not passed, 5 min",
                "Share of rows that were flagged or refused.",
                f'sum(rate({verdicts}{{@, verdict!="pass"}}[5m])) / sum(rate({verdicts}{{@}}[5m]))',
                "percentunit",
                decimals=2,
                thresholds=steps((None, GREEN), (0.02, ORANGE), (0.05, RED)),
                runbooks=("StockadeInputsRejected", *SCREENS),
            ),
        ),
        (4, _counted("Rows refused", "By an enforcing or a shadowing screen.", f'{verdicts}{{@, verdict="refuse"}}')),
        (
            4,
            _counted(
                "Requests rejected",
                "Refused with INPUT_REJECTED.",
                'stockade_requests_total{@, reason="INPUT_REJECTED"}',
                runbooks=("StockadeInputsRejected",),
            ),
        ),
        (
            4,
            _counted(
                "Wrong credentials",
                "Credentials that were presented and refused.",
                'stockade_auth_failures_total{@, reason!="CREDENTIAL_MISSING"}',
                runbooks=("StockadeCredentialGuessing",),
            ),
        ),
        (
            4,
            _counted(
                "Refused by limits",
                "Requests beyond a rate or a budget.",
                'stockade_ratelimit_decisions_total{@, decision="refuse"}',
                runbooks=("StockadeQueryBudgetSpent", "StockadeSharedLimitsDown"),
            ),
        ),
    )
    info = "stockade_screen_info{@}"
    not_passed = f'sum by ({per_screen}, verdict) (increase({verdicts}{{@, verdict!="pass"}}[$__range]))'
    technique = f"group_left (technique) max by ({per_screen}, technique) ({info})"
    screens = (
        (
            12,
            lines(
                "Verdicts",
                "Of all screens, by row.",
                [(f"sum by (verdict) (rate({verdicts}{{@}}{RATE}))", "{{verdict}}")],
                "rowsps",
                stacked=True,
                overrides=VERDICTS,
            ),
        ),
        (
            12,
            lines(
                "Share not passed, against the calibrated interval",
                "Between the dashed lines lies the false-positive rate that was measured on honest held-out rows.",
                [
                    (
                        (
                            f'sum by (screen) (rate({verdicts}{{@, verdict!="pass"}}{RATE}))'
                            f" / sum by (screen) (rate({verdicts}{{@}}{RATE}))"
                        ),
                        "{{screen}} now",
                    ),
                    ("max by (screen) (stockade_screen_fpr_observed{@})", "{{screen}}, last 10,000 rows"),
                    ('max by (screen) (stockade_screen_fpr_calibrated_bound{@, bound="high"})', "calibrated, high"),
                    ('min by (screen) (stockade_screen_fpr_calibrated_bound{@, bound="low"})', "calibrated, low"),
                ],
                "percentunit",
                overrides=(dashed("calibrated, high", GREY), dashed("calibrated, low", GREY)),
                runbooks=SCREENS,
            ),
        ),
    )
    refused = (
        "INPUT_REJECTED|CREDENTIAL_.+|ISOLATED|METHOD_FORBIDDEN|MODEL_UNKNOWN|RATE_LIMITED|QUOTA_EXCEEDED"
        "|REQUEST_TOO_LARGE|TENSOR_INVALID|MESSAGE_MALFORMED"
    )
    attacks = (
        (
            8,
            bars(
                "Attacks by ATLAS technique",
                "Rows flagged or refused in the time shown, by what the screen looks for (MITRE ATLAS).",
                [
                    (
                        f"sum by (technique, verdict) ({not_passed} * on ({per_screen}) {technique})",
                        "{{technique}} {{verdict}}",
                    )
                ],
                "short",
                color=RED,
                runbooks=("StockadeTechniqueBurst", "StockadeAccountsUnderAction"),
            ),
        ),
        (
            8,
            bars(
                "Refused, by reason",
                "Requests refused for what the caller did, in the time shown.",
                [
                    (
                        (
                            f'sort_desc(sum by (reason) (increase(stockade_requests_total{{@, reason=~"{refused}"}}'
                            "[$__range])))"
                        ),
                        "{{reason}}",
                    )
                ],
                "short",
                color=ORANGE,
                runbooks=("StockadeFeedbackSuspect",),
            ),
        ),
        (
            8,
            bars(
                "Tenant classes under action",
                "Requests of each class that its limits refused in the time shown. Tenants are no labels: the audit "
                "log knows them.",
                [
                    (
                        'sum by (class) (increase(stockade_ratelimit_decisions_total{@, decision="refuse"}[$__range]))',
                        "{{class}}",
                    )
                ],
                "short",
                color=PURPLE,
            ),
        ),
    )
    p_values = [
        (
            (
                f'sum(rate(stockade_screen_pvalue_bucket{{@, le="{level}"}}{RATE}))'
                f" / sum(rate(stockade_screen_pvalue_count{{@}}{RATE}))"
            ),
            f"p ≤ {level}",
        )
        for level in ("0.01", "0.05", "0.1", "0.5")
    ]
    in_force = f"max by ({per_screen}) (stockade_screen_threshold{{@}}) * on ({per_screen})"
    signals = (
        (
            8,
            lines(
                "P-values",
                "Of honest traffic at most half is at or below 0.5, and so on. Above it: drift, or an attack.",
                p_values,
                "percentunit",
                runbooks=SCREENS,
            ),
        ),
        (
            8,
            lines(
                "Credentials refused",
                "By the kind that was tried.",
                [
                    (
                        f"sum by (method, reason) (rate(stockade_auth_failures_total{{@}}{RATE}))",
                        "{{method}} {{reason}}",
                    )
                ],
                "reqps",
                runbooks=("StockadeCredentialGuessing",),
            ),
        ),
        (
            8,
            stat(
                "Screens in force: level of p",
                "At or below it a row is flagged.",
                f"{in_force} group_left (mode, technique) {info}",
                "none",
                legend="{{model}}: {{screen}}, {{mode}}, {{technique}}",
            ),
        ),
    )
    return dashboard(
        "stockade-security",
        "Stockade: security",
        "Who is trying what, and what became of it.",
        rows(("In the time shown", 4, now), ("Screens", 8, screens), ("Attacks", 7, attacks), ("Signals", 7, signals)),
    )


def _counted(title: str, about: str, series: str, *, runbooks: tuple[str, ...] = ()) -> Panel:
    return stat(title, about, f"sum(increase({series}[$__range])) or vector(0)", "short", decimals=0, runbooks=runbooks)


def models() -> dict[str, Any]:
    of = '@, model=~"$model"'
    batch = "stockade_batch_rows"
    states = (color_of("ready", GREEN), color_of("not_ready", RED))
    now = (
        (
            4,
            stat(
                "Predictions",
                "Rows that models ran, a second.",
                f"sum(rate(stockade_rows_total{{{of}}}{RATE}))",
                "rowsps",
            ),
        ),
        (
            4,
            stat(
                "Computing, per 1,000",
                "Time that a thread was busy for 1,000 predictions, in the dearest model.",
                f"max(stockade:compute_seconds:per_1000_rows_5m{{{of}}})",
                "s",
            ),
        ),
        (
            4,
            stat(
                "Cost, per 1,000",
                "Units charged for 1,000 predictions (`cost_per_row` of the policy).",
                f"max(stockade:cost_units:per_1000_rows_5m{{{of}}})",
                "none",
                decimals=0,
            ),
        ),
        (
            4,
            stat(
                "Replicas ready",
                "Engines that answer.",
                f'sum(stockade_replicas{{{of}, state="ready"}})',
                "short",
                thresholds=steps((None, RED), (1, GREEN)),
                runbooks=("StockadeModelUnserved",),
            ),
        ),
        (
            4,
            stat(
                "Replicas missing",
                "Engines that do not, and what Ray Serve wants and does not have.",
                f'sum(stockade_replicas{{{of}, state="not_ready"}}) + (clamp_min({on_cluster("wanted")} - '
                f"{on_cluster('running')}, 0) or vector(0))",
                "short",
                thresholds=MUST_BE_ZERO,
                runbooks=("StockadeReplicasMissing", "StockadeRayReplicasMissing"),
            ),
        ),
        (
            4,
            stat(
                "Rows in a batch",
                "On average. Near `engine.batch_rows_max` the model is the bottleneck.",
                f"sum(rate({batch}_sum{{{of}}}{RATE})) / sum(rate({batch}_count{{{of}}}{RATE}))",
                "none",
                decimals=1,
            ),
        ),
    )
    speed = (
        (
            12,
            lines(
                "Latency",
                "Of whole requests, by model.",
                [
                    (quantile(q, "model", f'{of}, stage="total"'), f"{{{{model}}}} p{round(100 * q)}")
                    for q in (0.5, 0.99)
                ],
                "s",
                runbooks=SLOW,
            ),
        ),
        (
            12,
            lines(
                "Waiting and running, p99",
                "Time in the model's queue, in the model, in its screens.",
                [(quantile(0.99, "stage", f'{of}, stage=~"queue|infer|screen"'), "{{stage}}")],
                "s",
            ),
        ),
    )
    score = "stockade_model_score"
    drift = (
        (
            8,
            lines(
                "Confidence",
                "Probability of the top class. When it moves and the model did not, the inputs have changed.",
                [(quantile(q, "", of, score), f"p{round(100 * q)}") for q in (0.1, 0.25, 0.5)],
                "percentunit",
            ),
        ),
        (
            8,
            lines(
                "Drift",
                "Evidence that p-values have left the calibration (a ticket above 1), their distance from uniform "
                "(above 0.1), jumps of a mean (above 0.05). `scores` has no alert.",
                [
                    (
                        f"max by (model, version, detector) (stockade_model_drift{{{of}}})",
                        "{{model}} {{version}} {{detector}}",
                    )
                ],
                "none",
                soft_most=0.3,
                runbooks=("StockadeModelDrift", "StockadeCanaryRolledBack", "StockadeRoutingCollapsed"),
            ),
        ),
        (
            8,
            lines(
                "Rows in a batch, rows waiting",
                "Batches grow with the load.",
                [
                    (
                        (
                            f"sum by (model) (rate(stockade_batch_rows_sum{{{of}}}{RATE}))"
                            f" / sum by (model) (rate(stockade_batch_rows_count{{{of}}}{RATE}))"
                        ),
                        "{{model}} in a batch",
                    ),
                    (f"sum by (model) (stockade_queue_depth{{{of}}})", "{{model}} waiting"),
                ],
                "short",
            ),
        ),
    )
    version = "{{model}} {{version}}, {{source}}"
    labels = (
        (
            12,
            lines(
                "Right, by labels that came later",
                "Of the feedback window. A ticket below what the manifest says, less three standard deviations, from "
                "200 labels on. Labels of others passed the gate, which is too kind.",
                [
                    (f"stockade:model_accuracy:by_labels{{{of}}}", version),
                    (f"stockade:model_accuracy:low{{{of}}}", f"{version}: least that chance explains"),
                ],
                "percentunit",
                least=None,
                runbooks=("StockadeAccuracyFell",),
            ),
        ),
        (
            12,
            lines(
                "Confidence off, by labels that came later",
                "Expected calibration error, and the part of it that chance does not explain. A ticket where that part "
                "is above what the manifest says.",
                [
                    (
                        f"max by (model, version, source) (stockade_model_calibration_error_ratio{{{of}}})",
                        version,
                    ),
                    (f"stockade:model_calibration_error:beyond_noise{{{of}}}", f"{version}: beyond chance"),
                    (
                        f"max by (model, version) (stockade_model_calibration_error_promised_ratio{{{of}}})",
                        "{{model}} {{version}}: manifest",
                    ),
                ],
                "percentunit",
                runbooks=("StockadeCalibrationFell",),
            ),
        ),
    )
    cost = (
        (
            8,
            lines(
                "Computing time by tenant class",
                "Seconds of a busy thread, a second: the class's share of a processor.",
                [
                    (
                        f"sum by (tenant_class) (rate(stockade_compute_seconds_total{{{of}}}{RATE}))",
                        "{{tenant_class}}",
                    )
                ],
                "percentunit",
                stacked=True,
            ),
        ),
        (
            8,
            lines(
                "Computing time for 1,000 predictions",
                "Falls when batches grow.",
                [
                    (
                        (
                            f"1000 * sum by (model) (rate(stockade_compute_seconds_total{{{of}}}{RATE}))"
                            f" / sum by (model) (rate(stockade_rows_total{{{of}}}{RATE}))"
                        ),
                        "{{model}}",
                    )
                ],
                "s",
            ),
        ),
        (
            8,
            lines(
                "Replicas",
                "Engines by state; on a Ray cluster also replicas by application, as Serve wants them and has them.",
                [
                    (
                        (
                            f"sum by (state) (stockade_replicas{{{of}}})"
                            " or label_join(max by (application, state) (stockade_ray_replicas{@}),"
                            ' "state", " ", "application", "state")'
                        ),
                        "{{state}}",
                    )
                ],
                "short",
                overrides=states,
                runbooks=("StockadeReplicasMissing", "StockadeRayReplicasMissing", "StockadeModelUnserved"),
            ),
        ),
    )
    return dashboard(
        "stockade-models",
        "Stockade: models",
        "How each model does: speed, drift, labels, cost, replicas.",
        rows(
            ("Now", 4, now),
            ("Speed", 8, speed),
            ("Drift", 8, drift),
            ("Labels", 8, labels),
            ("Cost and replicas", 8, cost),
        ),
        by_model=True,
    )


def on_cluster(state: str) -> str:
    """Replicas of all Serve applications, as the gateway that knows most of each heard it."""
    return f'sum(max by (application) (stockade_ray_replicas{{@, state="{state}"}}))'


def audit() -> dict[str, Any]:
    durable = "time() - max by (instance) (stockade_audit_last_durable_timestamp_seconds{@})"
    checkpoint = "time() - max by (instance) (stockade_audit_checkpoint_timestamp_seconds{@})"
    entries = "max by (instance) (stockade_audit_tree_size{@})"
    public = "max by (instance) (stockade_audit_checkpoint_size{@})"
    now = (
        (4, stat("Entries", "In the logs of all hosts.", "sum(stockade_audit_tree_size{@})", "short")),
        (
            4,
            stat(
                "Records",
                "Made durable, a second.",
                f"sum(rate(stockade_audit_records_total{{@}}{RATE}))",
                "suffix: rec/s",
            ),
        ),
        (
            4,
            stat(
                "Last durable",
                "Age of the newest durable record, where it is oldest. A heartbeat comes every five seconds.",
                f"max({durable})",
                "s",
                thresholds=steps((None, GREEN), (10, ORANGE), (20, RED)),
                decimals=1,
                runbooks=("StockadeAuditStandsStill",),
            ),
        ),
        (
            4,
            stat(
                "Checkpoint",
                "Age of the newest public checkpoint, on the host where it is oldest.",
                f"max({checkpoint})",
                "s",
                thresholds=steps((None, GREEN), (15, ORANGE), (60, RED)),
                decimals=1,
                runbooks=("StockadeCheckpointStale", "StockadeCosignatureStale", "StockadeWitnessAhead"),
            ),
        ),
        (
            4,
            stat(
                "Waiting",
                "Records that wait for the recorder.",
                "sum(stockade_audit_backlog_records{@})",
                "short",
                thresholds=steps((None, GREEN), (1000, ORANGE), (5000, RED)),
                runbooks=("StockadeAuditBacklog", "StockadeAuditUnavailable"),
            ),
        ),
        (
            4,
            stat(
                "Calls without a record",
                "Since the host started. Must stay 0.",
                "sum(stockade_audit_dropped_total{@})",
                "short",
                thresholds=MUST_BE_ZERO,
                runbooks=("StockadeRecordsDropped",),
            ),
        ),
    )
    writing = (
        (
            12,
            lines(
                "Records made durable, by kind",
                "One for every call, sums of what strangers were refused, and the log's own.",
                [(f"sum by (kind) (rate(stockade_audit_records_total{{@}}{RATE})) > 0", "{{kind}}")],
                "suffix: rec/s",
                stacked=True,
                overrides=(*OUTCOMES, color_of("heartbeat", BLUE)),
            ),
        ),
        (
            12,
            lines(
                "Until it is durable",
                "From the end of a request's work to the acknowledgement of the recorder.",
                [(quantile(q, "", '@, stage="audit"'), f"p{round(100 * q)}") for q in (0.5, 0.9, 0.99)],
                "s",
                overrides=(color_of("p50", GREEN), color_of("p90", YELLOW), color_of("p99", RED)),
                runbooks=SLOW,
            ),
        ),
    )
    lag = (
        (
            8,
            lines(
                "Age of what is durable, of what is public",
                "Seconds since the newest durable record, and since the newest checkpoint.",
                [(durable, "durable, {{instance}}"), (checkpoint, "checkpoint, {{instance}}")],
                "s",
                soft_most=10,
                runbooks=("StockadeAuditStandsStill", "StockadeCheckpointStale"),
            ),
        ),
        (
            8,
            lines(
                "Waiting, unpublished",
                "Records on their way to the recorder, and durable ones that no checkpoint covers yet.",
                [
                    ("sum by (instance) (stockade_audit_backlog_records{@})", "waiting, {{instance}}"),
                    (
                        f"{entries} - {public}",
                        "unpublished, {{instance}}",
                    ),
                ],
                "short",
                soft_most=10,
                runbooks=("StockadeAuditBacklog",),
            ),
        ),
        (
            8,
            lines(
                "Not in the replica",
                "Age of the oldest public record that the object store is not known to hold.",
                [("max by (instance) (stockade_audit_replication_lag_seconds{@})", "{{instance}}")],
                "s",
                soft_most=10,
                runbooks=("StockadeReplicaBehind", "StockadeReplicationStopped"),
            ),
        ),
    )
    trouble = (
        (
            8,
            lines(
                "Growth",
                "Entries in the log, and those that the newest checkpoint covers.",
                [
                    (entries, "entries, {{instance}}"),
                    (public, "public, {{instance}}"),
                ],
                "short",
                least=None,
            ),
        ),
        (
            8,
            lines(
                "What must not happen",
                "Requests that died with their worker, calls that left no record, calls without room in the ring.",
                [
                    (
                        f'sum(increase(stockade_audit_records_total{{@, kind="outcome-unknown"}}{RATE}))',
                        "outcome unknown",
                    ),
                    (f"sum(increase(stockade_audit_dropped_total{{@}}{RATE}))", "no record"),
                    (f"sum(increase(stockade_inflight_ring_full_total{{@}}{RATE}))", "ring full"),
                ],
                "short",
                soft_most=5,
                overrides=(
                    color_of("outcome unknown", PURPLE),
                    color_of("no record", RED),
                    color_of("ring full", ORANGE),
                ),
                runbooks=("StockadeOutcomeUnknown", "StockadeRecordsDropped", "StockadeInflightRingFull"),
            ),
        ),
        (
            8,
            lines(
                "Erasures owed",
                "Requested: they wait for a second administrator. Agreed: approved, and not in the log as done.",
                [("sum by (state) (stockade_erasures{@})", "{{state}}")],
                "short",
                soft_most=5,
                overrides=(color_of("requested", BLUE), color_of("agreed", ORANGE)),
                runbooks=("StockadeErasureOwed",),
            ),
        ),
    )
    return dashboard(
        "stockade-audit",
        "Stockade: audit log",
        "Is everything recorded, durable and public.",
        rows(("Now", 4, now), ("Writing", 8, writing), ("Lag", 8, lag), ("Growth and trouble", 8, trouble)),
    )


BOARDS = {"service": service, "security": security, "models": models, "audit": audit}
