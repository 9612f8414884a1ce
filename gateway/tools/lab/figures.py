"""The scorecard's plots, as elements of its page (see gateway/tools/demo/plots.py for how they take the page's
colours).
"""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.tools.demo.plots import BLUE, GREY, ORANGE, RED, plots

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from defenses.lab.scorecard import Row

LINES_MAX = 8
NAME_MAX = 40  # characters of a name in one line
_BY_RATE = re.compile(r"(?P<where>.+)/fpr-(?P<percent>[0-9.]+)/(?P<of>all|right)")
_LOOKS = ((BLUE, "-"), (ORANGE, "-"), (RED, "-"), (BLUE, "--"), (ORANGE, "--"), (RED, "--"), (BLUE, ":"), (ORANGE, ":"))


@dataclass(frozen=True, slots=True)
class Kind:
    """How the curves of one name are drawn."""

    title: str
    xlabel: str
    ylabel: str
    log_x: bool = False
    log_y: bool = False
    chance: bool = False


CURVES = {
    "success_by_answered": Kind("Success against queries, first seed", "queries asked", "% of attempts", log_x=True),
    "agreement": Kind(
        "Agreement of the stolen model against its cost, first seed", "queries answered", "% agreement", log_x=True
    ),
    "roc": Kind(
        "True against false positives", "false-positive rate", "true-positive rate", log_x=True, log_y=True, chance=True
    ),
    "evasion_by_fpr": Kind("Evasion against false alarms", "% of honest rows flagged", "% evaded"),
}
"""What `Trial.curves` may hold: x and y are shares for `roc`, else as the labels say, shares given as such."""

_SHARES = frozenset({"success_by_answered", "agreement", "evasion_by_fpr"})  # whose y is drawn in percent


def label(row: Row) -> str:
    """Return a row's name for a reader."""
    return f"{row.attack} · {row.knowledge}{'' if row.defended else ' · control'}"


def rates(rows: Sequence[Row]) -> str:
    """Plot the rate of each row with its interval; controls are grey."""
    shown = [row for row in rows if row.samples][::-1]

    def draw(axes: Any) -> None:
        for place, row in enumerate(shown):
            colour = BLUE if row.defended else GREY
            low, high = (100 * bound for bound in row.interval)
            axes.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot(100 * row.rate, place, "o", color=colour, markersize=6)
        axes.set_yticks(range(len(shown)), [_folded(label(row)) for row in shown], fontsize=8)
        axes.set(xlabel="% of samples, with 95 % interval", xlim=(-2, 102), ylim=(-0.6, len(shown) - 0.4))
        axes.tick_params(axis="x", labeltop=True)
        axes.grid(axis="x", color=GREY, linewidth=0.5)
        axes.set_axisbelow(True)

    return plots(draw, 0.42 * len(shown) + 0.8)


def evasion_by_rate(rows: Iterable[Row]) -> str:
    """Plot evasion against the promised rate of false alarms, for rows named ".../fpr-N/right"; "" without any."""
    lines: dict[tuple[str, str], list[tuple[float, float, float, float]]] = defaultdict(list)
    for row in rows:
        found = _BY_RATE.fullmatch(row.attack)
        if found and found["of"] == "right":
            low, high = row.interval
            lines[found["where"].removeprefix("whitebox/"), row.knowledge].append(
                (float(found["percent"]), 100 * row.rate, 100 * low, 100 * high)
            )
    colours = dict(zip(sorted({where for where, _ in lines}), (BLUE, ORANGE, RED, GREY), strict=False))
    dashes = dict(zip(sorted({knowledge for _, knowledge in lines}), ("-", "--", ":"), strict=False))

    def draw(axes: Any) -> None:
        for (where, knowledge), points in sorted(lines.items()):
            xs, ys, lows, highs = zip(*sorted(points), strict=True)
            colour, dash = colours.get(where, GREY), dashes.get(knowledge, "-.")
            axes.plot(xs, ys, dash, color=colour, marker="o", markersize=4, label=f"{where} · {knowledge}")
            axes.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="% of honest images that may be flagged", ylabel="% evaded", ylim=(0, 102))
        axes.set_xticks(sorted({point[0] for points in lines.values() for point in points}))
        _legend(axes, len(lines))

    names = [f"{where} · {knowledge}" for where, knowledge in lines]
    return plots(draw, _height_in(names)) if lines else ""


def curves(rows: Sequence[Row], name: str) -> str:
    """Plot the curves of one name, one line a row; "" where no row has it."""
    having = [row for row in rows if len(row.curves.get(name, ())) > 1][:LINES_MAX]
    kind = CURVES[name]

    def draw(axes: Any) -> None:
        scale = 100 if name in _SHARES else 1
        for row, (colour, dash) in zip(having, _LOOKS, strict=False):
            xs, ys = zip(*row.curves[name], strict=True)
            axes.plot(xs, [scale * y for y in ys], dash, color=colour if row.defended else GREY, label=label(row))
        axes.set(xlabel=kind.xlabel, ylabel=kind.ylabel)
        if kind.log_x:
            axes.set_xscale("log")
        if kind.log_y:
            axes.set_yscale("log")
        if kind.chance:
            axes.plot([1e-4, 1], [1e-4, 1], color=GREY, linewidth=1, label="chance")
            axes.set(xlim=(1e-4, 1), ylim=(1e-4, 1.05))
        else:
            axes.set_ylim(0, 102)
        axes.grid(color=GREY, linewidth=0.5)
        axes.set_axisbelow(True)
        _legend(axes, len(having))

    names = [label(row) for row in having]
    return plots(draw, _height_in(names)) if having else ""


def _height_in(names: Iterable[str]) -> float:
    """Return the height of a plot whose legend, above it, has a line for each line of these names."""
    return 3.4 + 0.15 * sum(_folded(name).count("\n") + 1 for name in names)


def _legend(axes: Any, lines: int) -> None:
    if not lines:
        return
    handles, names = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles, [_folded(name) for name in names], loc="outside upper left", frameon=False, fontsize=8, ncols=1
    )


def _folded(name: str) -> str:
    """Break a long name after its first part, and the rest between words."""
    head, dot, rest = name.partition(" · ")
    return "\n".join([head, *textwrap.wrap(rest, NAME_MAX)]) if dot and len(name) > NAME_MAX else name
