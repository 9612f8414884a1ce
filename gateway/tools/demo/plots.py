"""The plots of the demo's page, as elements of it: each once for wide windows and once for narrow ones.

Text stays text, and colours are the page's: a browser that prefers dark pages gets them dark. matplotlib loads when a
plot is made, so that `stockade --help` stays fast.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTHS_IN = {"wide": 9.0, "narrow": 3.7}
BLUE, ORANGE, RED, GREY = "#2f6f9f", "#d98324", "#b3261e", "#c9d3dc"
INK = "#1b2733"
VARIABLES = {BLUE: "var(--blue)", ORANGE: "var(--orange)", RED: "var(--red)", GREY: "var(--grey)", INK: "var(--ink)"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def histogram(values: Sequence[float], xlabel: str, ylabel: str) -> str:
    """Plot how often each value came."""

    def draw(axes: Any) -> None:
        axes.hist(values, bins=60, color=BLUE)
        axes.set(xlabel=xlabel, ylabel=ylabel)

    return plots(draw, 2.6)


def bars(counts: dict[str, int], xlabel: str) -> str:
    """Plot a bar for each count."""

    def draw(axes: Any) -> None:
        drawn = axes.barh(list(counts)[::-1], list(counts.values())[::-1], color=BLUE)
        axes.bar_label(drawn, padding=4, fontsize=9)
        axes.set(xlabel=xlabel)
        axes.margins(x=0.15)

    return plots(draw, 0.4 * max(1, len(counts)) + 0.7)


def shares(rows: dict[str, tuple[float, float, float]], beside: Sequence[str], xlabel: str) -> str:
    """Plot rows of what passed, was flagged and was refused, in percent, with a word beside each."""

    def draw(axes: Any) -> None:
        names = list(rows)[::-1]
        left = [0.0] * len(names)
        for part, (label, colour) in enumerate((("passed", GREY), ("flagged", ORANGE), ("refused", RED))):
            widths = [rows[name][part] for name in names]
            axes.barh(names, widths, left=left, color=colour, label=label)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for row, word in enumerate(reversed(beside)):
            axes.text(103, row, word, va="center", fontsize=9, clip_on=False)
        axes.set(xlabel=xlabel, xlim=(0, 100))
        axes.figure.legend(ncols=3, loc="outside upper center", frameon=False, fontsize=9, handlelength=1.2)

    return plots(draw, 0.45 * len(rows) + 1.1)


def plots(draw: Callable[[Any], None], height_in: float) -> str:
    """Return a plot in each width; the page shows one of them."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    made = []
    for name, width_in in WIDTHS_IN.items():
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(width_in, height_in), layout="constrained")
            axes = figure.subplots()
            axes.spines[["top", "right"]].set_visible(False)
            draw(axes)
            made.append(f'<div class="{name}">{svg(figure)}</div>')
    return "".join(made)


def svg(figure: Any) -> str:
    """Return a figure as an element of the page, in its colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return text
