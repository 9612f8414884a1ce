"""Security: who is trying what, and what became of it."""

from collections.abc import Sequence

from dashboards.grafana import (
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
from dashboards.terms import RATE

VERDICTS = "stockade_screen_verdicts_total"
PER_SCREEN = "job, model, screen"
FLAGS = ("StockadeScreenFlagsMore", "StockadeScreenFlagsLess")


def counted(title: str, about: str, series: str, *, runbooks: Sequence[str] = ()) -> Panel:
    """How much a counter grew in the time shown."""
    return stat(title, about, f"sum(increase({series}[$__range])) or vector(0)", "short", decimals=0, runbooks=runbooks)


NOW = (
    stat("Rows judged", "Rows that a screen has judged, a second.", f"sum(rate({VERDICTS}{{@}}{RATE}))", "rowsps"),
    stat(
        "Not passed, 5 min",
        "Share of rows that were flagged or refused.",
        f'sum(rate({VERDICTS}{{@, verdict!="pass"}}[5m])) / sum(rate({VERDICTS}{{@}}[5m]))',
        "percentunit",
        decimals=2,
        thresholds=steps((None, GREEN), (0.02, ORANGE), (0.05, RED)),
        runbooks=("StockadeInputsRejected", *FLAGS),
    ),
    counted("Rows refused", "By an enforcing or a shadowing screen.", f'{VERDICTS}{{@, verdict="refuse"}}'),
    counted(
        "Requests rejected",
        "Refused with INPUT_REJECTED.",
        'stockade_requests_total{@, reason="INPUT_REJECTED"}',
        runbooks=("StockadeInputsRejected",),
    ),
    counted(
        "Wrong credentials",
        "Credentials that were presented and refused.",
        'stockade_auth_failures_total{@, reason!="CREDENTIAL_MISSING"}',
        runbooks=("StockadeCredentialGuessing",),
    ),
    counted(
        "Refused by limits",
        "Requests beyond a rate or a budget.",
        'stockade_ratelimit_decisions_total{@, decision="refuse"}',
        runbooks=("StockadeQueryBudgetSpent", "StockadeSharedLimitsDown"),
    ),
)

INFO = "stockade_screen_info{@}"
NOT_PASSED = f'sum by ({PER_SCREEN}, verdict) (increase({VERDICTS}{{@, verdict!="pass"}}[$__range]))'
TECHNIQUE = f"group_left (technique) max by ({PER_SCREEN}, technique) ({INFO})"
SCREENS = (
    lines(
        "Verdicts",
        "Of all screens, by row.",
        [(f"sum by (verdict) (rate({VERDICTS}{{@}}{RATE}))", "{{verdict}}")],
        "rowsps",
        stacked=True,
        overrides=(color_of("pass", GREEN), color_of("flag", YELLOW), color_of("refuse", RED)),
    ),
    lines(
        "Share not passed, against the calibrated interval",
        "Between the dashed lines lies the false-positive rate that was measured on honest held-out rows.",
        [
            (
                (
                    f'sum by (screen) (rate({VERDICTS}{{@, verdict!="pass"}}{RATE}))'
                    f" / sum by (screen) (rate({VERDICTS}{{@}}{RATE}))"
                ),
                "{{screen}} now",
            ),
            ("max by (screen) (stockade_screen_fpr_observed{@})", "{{screen}}, last 10,000 rows"),
            ('max by (screen) (stockade_screen_fpr_calibrated_bound{@, bound="high"})', "calibrated, high"),
            ('min by (screen) (stockade_screen_fpr_calibrated_bound{@, bound="low"})', "calibrated, low"),
        ],
        "percentunit",
        overrides=(dashed("calibrated, high", GREY), dashed("calibrated, low", GREY)),
        runbooks=FLAGS,
    ),
)

REFUSED = (
    "INPUT_REJECTED|CREDENTIAL_.+|ISOLATED|METHOD_FORBIDDEN|MODEL_UNKNOWN|RATE_LIMITED|QUOTA_EXCEEDED"
    "|REQUEST_TOO_LARGE|TENSOR_INVALID|MESSAGE_MALFORMED"
)
ATTACKS = (
    bars(
        "Attacks by ATLAS technique",
        "Rows flagged or refused in the time shown, by what the screen looks for (MITRE ATLAS).",
        [(f"sum by (technique, verdict) ({NOT_PASSED} * on ({PER_SCREEN}) {TECHNIQUE})", "{{technique}} {{verdict}}")],
        "short",
        color=RED,
        runbooks=("StockadeTechniqueBurst",),
    ),
    bars(
        "Refused, by reason",
        "Requests refused for what the caller did, in the time shown.",
        [
            (
                f'sort_desc(sum by (reason) (increase(stockade_requests_total{{@, reason=~"{REFUSED}"}}[$__range])))',
                "{{reason}}",
            )
        ],
        "short",
        color=ORANGE,
        runbooks=("StockadeFeedbackSuspect",),
    ),
)
UNDER_ACTION = (
    bars(
        "Tenant classes under action",
        "Requests of each class that its limits refused in the time shown. Tenants are no labels: the audit log "
        "knows them.",
        [
            (
                'sum by (class) (increase(stockade_ratelimit_decisions_total{@, decision="refuse"}[$__range]))',
                "{{class}}",
            )
        ],
        "short",
        color=PURPLE,
    ),
    bars(
        "Requests of accounts on a step, by step",
        "In the time shown, of accounts whose questions, taken together, look like an attack; in shadow too.",
        [("sum by (step) (increase(stockade_account_actions_total{@}[$__range]))", "{{step}}")],
        "short",
        color=YELLOW,
        runbooks=("StockadeAccountsUnderAction",),
    ),
)

IN_FORCE = f"max by ({PER_SCREEN}) (stockade_screen_threshold{{@}}) * on ({PER_SCREEN})"
SIGNALS = (
    lines(
        "P-values",
        "Of honest traffic at most half is at or below 0.5, and so on. Above it: drift, or an attack.",
        [
            (
                (
                    f'sum(rate(stockade_screen_pvalue_bucket{{@, le="{level}"}}{RATE}))'
                    f" / sum(rate(stockade_screen_pvalue_count{{@}}{RATE}))"
                ),
                f"p ≤ {level}",
            )
            for level in ("0.01", "0.05", "0.1", "0.5")
        ],
        "percentunit",
        runbooks=FLAGS,
    ),
    lines(
        "Credentials refused",
        "By the kind that was tried.",
        [(f"sum by (method, reason) (rate(stockade_auth_failures_total{{@}}{RATE}))", "{{method}} {{reason}}")],
        "reqps",
        runbooks=("StockadeCredentialGuessing",),
    ),
    stat(
        "Screens in force: level of p",
        "At or below it a row is flagged.",
        f"{IN_FORCE} group_left (mode, technique) {INFO}",
        "none",
        legend="{{model}}: {{screen}}, {{mode}}, {{technique}}",
    ),
)

BOARD = dashboard(
    "stockade-security",
    "Stockade: security",
    "Who is trying what, and what became of it.",
    rows(
        ("In the time shown", 4, NOW),
        ("Screens", 8, SCREENS),
        ("Attacks", 7, ATTACKS),
        ("Under action", 5, UNDER_ACTION),
        ("Signals", 7, SIGNALS),
    ),
)
