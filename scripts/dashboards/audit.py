"""The audit log: is everything recorded, durable and public."""

from dashboards.grafana import BLUE, GREEN, ORANGE, PURPLE, RED, color_of, dashboard, lines, rows, stat, steps
from dashboards.terms import MUST_BE_ZERO, OUTCOMES, QUANTILES, RATE, SLOW, quantile

DURABLE = "time() - max by (instance) (stockade_audit_last_durable_timestamp_seconds{@})"
CHECKPOINT = "time() - max by (instance) (stockade_audit_checkpoint_timestamp_seconds{@})"
ENTRIES = "max by (instance) (stockade_audit_tree_size{@})"
PUBLIC = "max by (instance) (stockade_audit_checkpoint_size{@})"

NOW = (
    stat("Entries", "In the epochs that are written, on all hosts.", "sum(stockade_audit_tree_size{@})", "short"),
    stat("Records", "Made durable, a second.", f"sum(rate(stockade_audit_records_total{{@}}{RATE}))", "suffix: rec/s"),
    stat(
        "Last durable",
        "Age of the newest durable record, where it is oldest. A heartbeat comes every five seconds.",
        f"max({DURABLE})",
        "s",
        thresholds=steps((None, GREEN), (10, ORANGE), (20, RED)),
        decimals=1,
        runbooks=("StockadeAuditStandsStill",),
    ),
    stat(
        "Checkpoint",
        "Age of the newest public checkpoint, on the host where it is oldest.",
        f"max({CHECKPOINT})",
        "s",
        thresholds=steps((None, GREEN), (15, ORANGE), (60, RED)),
        decimals=1,
        runbooks=("StockadeCheckpointStale", "StockadeCosignatureStale", "StockadeWitnessAhead"),
    ),
    stat(
        "Waiting",
        "Records that wait for the recorder.",
        "sum(stockade_audit_backlog_records{@})",
        "short",
        thresholds=steps((None, GREEN), (1000, ORANGE), (5000, RED)),
        runbooks=("StockadeAuditBacklog", "StockadeAuditUnavailable"),
    ),
    stat(
        "Calls without a record",
        "Since the host started. Must stay 0.",
        "sum(stockade_audit_dropped_total{@})",
        "short",
        thresholds=MUST_BE_ZERO,
        runbooks=("StockadeRecordsDropped",),
    ),
)

WRITING = (
    lines(
        "Records made durable, by kind",
        "One for every call, sums of what strangers were refused, and the log's own.",
        [(f"sum by (kind) (rate(stockade_audit_records_total{{@}}{RATE})) > 0", "{{kind}}")],
        "suffix: rec/s",
        stacked=True,
        overrides=(*OUTCOMES, color_of("heartbeat", BLUE)),
    ),
    lines(
        "Until it is durable",
        "From the end of a request's work to the acknowledgement of the recorder.",
        [(quantile(q, "", '@, stage="audit"'), f"p{round(100 * q)}") for q in (0.5, 0.9, 0.99)],
        "s",
        overrides=QUANTILES,
        runbooks=SLOW,
    ),
)

LAG = (
    lines(
        "Age of what is durable, of what is public",
        "Seconds since the newest durable record, and since the newest checkpoint.",
        [(DURABLE, "durable, {{instance}}"), (CHECKPOINT, "checkpoint, {{instance}}")],
        "s",
        soft_most=10,
        runbooks=("StockadeAuditStandsStill", "StockadeCheckpointStale"),
    ),
    lines(
        "Waiting, unpublished",
        "Records on their way to the recorder, and durable ones that no checkpoint covers yet.",
        [
            ("sum by (instance) (stockade_audit_backlog_records{@})", "waiting, {{instance}}"),
            (f"{ENTRIES} - {PUBLIC}", "unpublished, {{instance}}"),
        ],
        "short",
        soft_most=10,
        runbooks=("StockadeAuditBacklog",),
    ),
    lines(
        "Not in the replica",
        "Age of the oldest public record that the object store is not known to hold.",
        [("max by (instance) (stockade_audit_replication_lag_seconds{@})", "{{instance}}")],
        "s",
        soft_most=10,
        runbooks=("StockadeReplicaBehind", "StockadeReplicationStopped"),
    ),
)

TROUBLE = (
    lines(
        "Growth",
        "Entries in the epoch that is written, and those that the newest checkpoint covers.",
        [(ENTRIES, "entries, {{instance}}"), (PUBLIC, "public, {{instance}}")],
        "short",
        least=None,
    ),
    lines(
        "What must not happen",
        "Requests that died with their worker, calls that left no record, calls without room in the ring.",
        [
            (f'sum(increase(stockade_audit_records_total{{@, kind="outcome-unknown"}}{RATE}))', "outcome unknown"),
            (f"sum(increase(stockade_audit_dropped_total{{@}}{RATE}))", "no record"),
            (f"sum(increase(stockade_inflight_ring_full_total{{@}}{RATE}))", "ring full"),
        ],
        "short",
        soft_most=5,
        overrides=(color_of("outcome unknown", PURPLE), color_of("no record", RED), color_of("ring full", ORANGE)),
        runbooks=("StockadeOutcomeUnknown", "StockadeRecordsDropped", "StockadeInflightRingFull"),
    ),
    lines(
        "Erasures owed",
        "Requested: they wait for a second administrator. Agreed: approved, and not in the log as done.",
        [("sum by (state) (stockade_erasures{@})", "{{state}}")],
        "short",
        soft_most=5,
        overrides=(color_of("requested", BLUE), color_of("agreed", ORANGE)),
        runbooks=("StockadeErasureOwed",),
    ),
)

EPOCHS = (
    lines(
        "Epoch",
        "The number of the epoch that each host writes.",
        [("max by (instance) (stockade_audit_epoch{@})", "{{instance}}")],
        "short",
        least=None,
        runbooks=("StockadeEpochOverdue",),
    ),
    lines(
        "Changes of epochs",
        "Begun while the recorder served, or only at its start, as it had ended between two; and those that failed.",
        [
            (f"sum by (when) (increase(stockade_audit_epochs_begun_total{{@}}{RATE}))", "{{when}}"),
            (f"sum(increase(stockade_audit_epoch_changes_failed_total{{@}}{RATE}))", "failed"),
        ],
        "short",
        soft_most=2,
        overrides=(color_of("serving", GREEN), color_of("start", ORANGE), color_of("failed", RED)),
        runbooks=("StockadeEpochOverdue",),
    ),
    lines(
        "Old epochs that are kept",
        "Closed epochs past their age, by what kept the oldest of them when `stockade audit retain` last ran.",
        [("sum by (by) (stockade_audit_epochs_kept{@})", "{{by}}")],
        "short",
        soft_most=2,
        overrides=(color_of("hold", BLUE), color_of("replica", ORANGE), color_of("quorum", PURPLE)),
        runbooks=("StockadeRetentionStuck",),
    ),
)

BOARD = dashboard(
    "stockade-audit",
    "Stockade: audit log",
    "Is everything recorded, durable and public.",
    rows(
        ("Now", 4, NOW),
        ("Writing", 8, WRITING),
        ("Lag", 8, LAG),
        ("Growth and trouble", 8, TROUBLE),
        ("Epochs", 8, EPOCHS),
    ),
)
