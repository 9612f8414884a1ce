"""What several boards say alike: quantiles, the colours of outcomes, the runbooks of slow answers."""

from dashboards.grafana import GREEN, ORANGE, PURPLE, RED, YELLOW, color_of, steps

RATE = "[$__rate_interval]"
MUST_BE_ZERO = steps((None, GREEN), (1, RED))
OUTCOMES = (
    color_of("served", GREEN),
    color_of("refused", ORANGE),
    color_of("failed", RED),
    color_of("outcome-unknown", PURPLE),
)
QUANTILES = (color_of("p50", GREEN), color_of("p90", YELLOW), color_of("p99", RED))
SLOW = ("StockadeLatencyBurnFast", "StockadeLatencyBurnSlow")


def quantile(q: float, by: str, selector: str, metric: str = "stockade_request_duration_seconds") -> str:
    """A quantile of a histogram, by labels."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}{RATE})))"
