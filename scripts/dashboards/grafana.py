"""Panels and dashboards in Grafana's JSON, as plain dictionaries.

In a query `@` stands for the selector of the job that is chosen at the top of the dashboard.
"""

from collections.abc import Sequence
from typing import Any

SCHEMA_VERSION = 39
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, BLUE, YELLOW, ORANGE, RED, GREY, PURPLE = "green", "blue", "yellow", "orange", "red", "#8e8e8e", "purple"

Panel = dict[str, Any]
Query = tuple[str, str]
"""(PromQL, legend)."""


def steps(*bounds: tuple[float | None, str]) -> dict[str, Any]:
    """Colours from a value on; the first bound is None."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in bounds]}


PLAIN = steps((None, BLUE))


def color_of(name: str, color: str) -> dict[str, Any]:
    """Give the series of that name a colour that means something."""
    fixed = {"mode": "fixed", "fixedColor": color}
    return {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "color", "value": fixed}]}


def dashed(name: str, color: str) -> dict[str, Any]:
    """Draw the series of that name as a bound: dashed, without a filled area."""
    found = color_of(name, color)
    found["properties"] += [
        {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}},
        {"id": "custom.fillOpacity", "value": 0},
    ]
    return found


def _link(kind: str, title: str, **more: Any) -> dict[str, Any]:
    empty = {"tags": [], "asDropdown": False, "icon": "", "tooltip": "", "url": ""}
    return {
        "type": kind,
        "title": title,
        **empty,
        "includeVars": False,
        "keepTime": False,
        "targetBlank": False,
        **more,
    }


def _panel(kind: str, title: str, about: str, queries: Sequence[Query], runbooks: Sequence[str]) -> Panel:
    instant = kind != "timeseries"
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "links": [
            _link("link", f"Runbook: {name}", url=f"${{runbooks}}/{name}.md", targetBlank=True) for name in runbooks
        ],
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": expr.replace("@", 'job=~"$job"'),
                "legendFormat": legend,
                "instant": instant,
                "range": not instant,
            }
            for number, (expr, legend) in enumerate(queries)
        ],
    }


def stat(
    title: str,
    about: str,
    expr: str,
    unit: str,
    *,
    legend: str = "",
    thresholds: dict[str, Any] = PLAIN,
    decimals: int | None = None,
    runbooks: Sequence[str] = (),
) -> Panel:
    """One number, coloured by its thresholds."""
    defaults: dict[str, Any] = {"unit": unit, "color": {"mode": "thresholds"}, "thresholds": thresholds}
    if decimals is not None:
        defaults["decimals"] = decimals
    return _panel("stat", title, about, [(expr, legend)], runbooks) | {
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "percentChangeColorMode": "standard",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "showPercentChange": False,
            "textMode": "value_and_name" if legend else "auto",
            "wideLayout": True,
        },
    }


def bars(
    title: str, about: str, queries: Sequence[Query], unit: str, *, color: str = BLUE, runbooks: Sequence[str] = ()
) -> Panel:
    """One horizontal bar a series."""
    defaults = {"unit": unit, "decimals": 0, "min": 0, "color": {"mode": "fixed", "fixedColor": color}}
    return _panel("bargauge", title, about, queries, runbooks) | {
        "fieldConfig": {"defaults": defaults | {"thresholds": PLAIN}, "overrides": []},
        "options": {
            "displayMode": "basic",
            "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
            "maxVizHeight": 40,
            "minVizHeight": 16,
            "minVizWidth": 8,
            "namePlacement": "left",
            "orientation": "horizontal",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "showUnfilled": True,
            "sizing": "auto",
            "text": {"titleSize": 13, "valueSize": 18},
            "valueMode": "color",
        },
    }


def lines(
    title: str,
    about: str,
    queries: Sequence[Query],
    unit: str,
    *,
    stacked: bool = False,
    least: float | None = 0,
    soft_most: float | None = None,
    thresholds: dict[str, Any] | None = None,
    overrides: Sequence[dict[str, Any]] = (),
    runbooks: Sequence[str] = (),
) -> Panel:
    """Series over time. `thresholds` are drawn as lines."""
    custom: dict[str, Any] = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1 if stacked else 2,
        "fillOpacity": 40 if stacked else 0,
        "showPoints": "never",
        "spanNulls": 30_000,  # a scrape that was missed is no gap
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
    }
    if soft_most is not None:
        custom["axisSoftMax"] = soft_most
    defaults: dict[str, Any] = {"unit": unit, "color": {"mode": "palette-classic"}, "custom": custom}
    if least is not None:
        defaults["min"] = least
    defaults["thresholds"] = thresholds or PLAIN
    return _panel("timeseries", title, about, queries, runbooks) | {
        "fieldConfig": {"defaults": defaults, "overrides": [*overrides]},
        "options": {
            "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def rows(*sections: tuple[str, int, Sequence[Panel]]) -> list[Panel]:
    """Lay panels out: a section is (title, height, panels), which stand side by side and are equally wide."""
    placed: list[Panel] = []
    y = 0
    for title, height, panels in sections:
        grid = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        placed.append({"type": "row", "title": title, "collapsed": False, "gridPos": grid, "panels": []})
        width = COLUMNS // len(panels)
        for number, panel in enumerate(panels):
            placed.append(panel | {"gridPos": {"h": height, "w": width, "x": number * width, "y": y + 1}})
        y += 1 + height
    return [panel | {"id": number} for number, panel in enumerate(placed, 1)]


def _choice(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def dashboard(uid: str, title: str, about: str, panels: list[Panel], *, by_model: bool = False) -> dict[str, Any]:
    """A whole dashboard with its choices: data source, job, and model where the panels ask for it."""
    choices = [
        {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1},
        _choice("job", "Job", "label_values(stockade_build_info, job)"),
    ]
    if by_model:
        choices.append(_choice("model", "Model", 'label_values(stockade_rows_total{job=~"$job"}, model)'))
    where = {"type": "constant", "name": "runbooks", "label": "Where the runbooks are", "query": "/public/runbooks"}
    choices.append(where | {"hide": 2})
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "tags": ["stockade"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "fiscalYearStartMonth": 0,
        "weekStart": "",
        "links": [_link("dashboards", "Stockade", tags=["stockade"], includeVars=True, keepTime=True)],
        "annotations": {"list": []},
        "templating": {"list": choices},
        "panels": panels,
    }
