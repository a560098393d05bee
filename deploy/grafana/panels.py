"""Parts of dashboards, made with the builders of the Grafana Foundation SDK.

In queries `RATE` stands for a window that fits the zoom, `[$__rate_interval]`.
"""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, SortOrder, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef

Panel = stat.Panel | timeseries.Panel
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
EDGE = 'instance=~"$edge"'  # the replicas that were chosen above the panels
# Units that Grafana does not know it shows as they are: `suffix:` says so.
_UNITS = {"pubps": "suffix: pub/s", "delps": "suffix: del/s", "cps": "suffix: /s"}


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def number(title: str, unit: str, query: str, help: str = "") -> Panel:
    """Return a panel with the present value, large.

    `unit` is as Grafana names it; `help` is shown on hovering.
    """
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    panel = stat.Panel().span(4).height(4).reduce_options(reduced)
    return _described(panel, title, unit, help).with_target(_target(0, query, title).instant())


def lines(title: str, unit: str, *queries: tuple[str, str], help: str = "") -> Panel:
    """Return a diagram of values over time; `queries`: PromQL and name of its series."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    panel = timeseries.Panel().span(8).height(8).legend(legend.show_legend(True)).tooltip(tooltip)
    for index, (query, series) in enumerate(queries):
        panel.with_target(_target(index, query, series).range())
    return _described(panel, title, unit, help)


def p99(metric: str, *labels: str, where: str = "") -> str:
    """Return the 99th percentile of a histogram, a series for each label value.

    `where`: matchers.
    """
    return _quantile("0.99", metric, labels, where)


def median(metric: str, *labels: str, where: str = "") -> str:
    """Likewise the 50th."""
    return _quantile("0.5", metric, labels, where)


def _described(panel: Panel, title: str, unit: str, help: str) -> Panel:
    return panel.title(title).description(help).datasource(SOURCE).unit(_UNITS.get(unit, unit)).min(0)


def _target(index: int, query: str, series: str) -> prometheus.Dataquery:
    letter = chr(ord("A") + index)
    expression = query.replace("RATE", "[$__rate_interval]")
    return prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(expression).legend_format(series)


def _quantile(share: str, metric: str, labels: tuple[str, ...], where: str) -> str:
    by = ", ".join((*labels, "le"))
    return f"histogram_quantile({share}, sum by ({by}) (rate({metric}_bucket{{{where}}}RATE)))"
