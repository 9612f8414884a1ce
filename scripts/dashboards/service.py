"""The service overview: is it serving, how fast, and if not, why."""

from dashboards.grafana import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    Panel,
    color_of,
    dashboard,
    lines,
    rows,
    stat,
    steps,
)
from dashboards.terms import OUTCOMES, QUANTILES, RATE, SLOW, quantile

REASONS = (
    color_of("INPUT_REJECTED", RED),
    color_of("RATE_LIMITED", ORANGE),
    color_of("CREDENTIAL_INVALID", PURPLE),
    color_of("TENSOR_INVALID", BLUE),
    color_of("CREDENTIAL_MISSING", GREY),
)
BURN = ("StockadeAvailabilityBurnFast", "StockadeAvailabilityBurnSlow")

NOW = (
    stat("Requests", "Calls that ended, a second.", f"sum(rate(stockade_requests_total{{@}}{RATE}))", "reqps"),
    stat(
        "Availability, 1 h",
        "Share of requests that a model should have answered and did. The objective is 99.9 %.",
        "1 - max(stockade:availability_errors:ratio_rate1h{@})",
        "percentunit",
        thresholds=steps((None, RED), (0.99, ORANGE), (0.999, GREEN)),
        decimals=2,
        runbooks=BURN,
    ),
    stat(
        "Latency, p99",
        "Of the slowest model, over five minutes. The objective is 99 % within 50 ms.",
        "max(stockade:request_duration_seconds:p99_5m{@})",
        "s",
        thresholds=steps((None, GREEN), (0.05, ORANGE), (0.25, RED)),
        runbooks=SLOW,
    ),
    stat("In flight", "Calls being worked on.", "sum(stockade_inflight_requests{@})", "short"),
    stat(
        "Workers",
        "Gateway workers that are alive, on all hosts.",
        "sum(stockade_build_info{@})",
        "short",
        thresholds=steps((None, RED), (1, GREEN)),
        runbooks=("StockadeDown", "StockadeNoHosts", "StockadeDependencyDown"),
    ),
    stat(
        "Certificate",
        "Time until the first certificate expires.",
        "min(stockade_cert_expiry_timestamp_seconds{@}) - time()",
        "s",
        thresholds=steps((None, RED), (3 * 86_400, ORANGE), (30 * 86_400, GREEN)),
        decimals=1,
        runbooks=("StockadeCertificateExpires", "StockadeCertificateExpiresSoon"),
    ),
)

TRAFFIC = (
    lines(
        "Requests by outcome",
        "Every call ends in one of these; each has one record in the audit log.",
        [(f"sum by (outcome) (rate(stockade_requests_total{{@}}{RATE}))", "{{outcome}}")],
        "reqps",
        stacked=True,
        overrides=OUTCOMES,
    ),
    lines(
        "Refusals and failures by reason",
        "The reasons are those that callers see in brackets.",
        [(f'sum by (reason) (rate(stockade_requests_total{{@, reason!="OK"}}{RATE}))', "{{reason}}")],
        "reqps",
        overrides=REASONS,
    ),
)

LATENCY = (
    lines(
        "Latency",
        "From the first header to the end, of requests for a model.",
        [(quantile(q, "", '@, stage="total", model!=""'), f"p{round(100 * q)}") for q in (0.5, 0.9, 0.99)],
        "s",
        overrides=QUANTILES,
        runbooks=SLOW,
    ),
    lines(
        "Latency by stage, p99",
        "Where the time goes. `audit` is the wait until the record is durable.",
        [(quantile(0.99, "stage", '@, stage!="total", model!=""'), "{{stage}}")],
        "s",
    ),
)

WINDOWS = ("5m", "1h", "6h")
BURNING = steps((None, GREEN), (6, ORANGE), (14.4, RED))


def burn_rate(title: str, about: str, ratio: str, budget: float, runbooks: tuple[str, ...]) -> Panel:
    """How many times too fast a budget is spent, by a recorded ratio of each window."""
    queries = [(f"max(stockade:{ratio}:ratio_rate{window}{{@}}) / {budget}", window) for window in WINDOWS]
    return lines(title, about, queries, "none", soft_most=16, thresholds=BURNING, runbooks=runbooks)


OBJECTIVES = (
    burn_rate(
        "Availability: burn rate",
        "How many times too fast the error budget of 0.1 % is spent. It pages at 14.4 in an hour, 6 in six.",
        "availability_errors",
        0.001,
        BURN,
    ),
    burn_rate(
        "Latency: burn rate",
        "How many times too fast the budget of 1 % of slow requests is spent.",
        "latency_slow",
        0.01,
        SLOW,
    ),
    lines(
        "Calls by gRPC status",
        "What clients see.",
        [(f"sum by (grpc_code) (rate(grpc_server_handled_total{{@}}{RATE})) > 0", "{{grpc_code}}")],
        "reqps",
        stacked=True,
        overrides=(color_of("OK", GREEN),),
    ),
)

BOARD = dashboard(
    "stockade-service",
    "Stockade: service overview",
    "Is it serving, how fast, and if not, why.",
    rows(("Now", 4, NOW), ("Traffic", 8, TRAFFIC), ("Latency", 8, LATENCY), ("Objectives", 8, OBJECTIVES)),
)
