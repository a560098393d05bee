"""Words for dashboards: boards of rows of panels. `build.py` makes Grafana's JSON of them.

In queries `RATE` stands for a window that fits the zoom, `[$__rate_interval]`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram, or one number (`stat`).

    `queries`: PromQL and what its series are called; `unit`: Grafana's name of one; `width`: of 24; `help`: shown on
    hovering.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    help: str = ""
    width: int = 8
    stat: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard; `uid` is in its address and never changes."""

    uid: str
    title: str
    rows: tuple[Row, ...]


def number(title: str, unit: str, query: str, help: str = "") -> Panel:
    """The present value, large."""
    return Panel(title, unit, ((query, title),), help, width=4, stat=True)


def lines(title: str, unit: str, *queries: tuple[str, str], help: str = "") -> Panel:
    """Values over time."""
    return Panel(title, unit, queries, help)


def p99(metric: str, *labels: str, where: str = "") -> str:
    """The 99th percentile of a histogram, one series for each value of the labels; `where`: matchers."""
    return _quantile("0.99", metric, labels, where)


def median(metric: str, *labels: str, where: str = "") -> str:
    """Likewise the 50th."""
    return _quantile("0.5", metric, labels, where)


def _quantile(share: str, metric: str, labels: tuple[str, ...], where: str) -> str:
    by = ", ".join((*labels, "le"))
    return f"histogram_quantile({share}, sum by ({by}) (rate({metric}_bucket{{{where}}}RATE)))"


EDGE = 'instance=~"$edge"'  # the replicas that were chosen above the panels
