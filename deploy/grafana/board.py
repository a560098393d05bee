"""A dashboard: rows of panels, and what all dashboards share."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
)

from deploy.grafana.panels import SOURCE, Row

_SCHEMA = 39  # of Grafana 11.0; the SDK would write an older one, which Grafana migrates whenever it reads it


class _Annotation(AnnotationQuery):
    """An annotation with a text at each mark, for which the SDK has no field."""

    title_format = ""

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), "titleFormat": self.title_format}


class _Starts(build.AnnotationQuery):
    """A mark where one of our processes began."""

    def __init__(self) -> None:
        self._internal = _Annotation()
        self._internal.title_format = "{{job}} started"
        self.name("Starts of processes").datasource(SOURCE).enable(True).icon_color("blue")
        self.expr('changes(process_start_time_seconds{job!="prometheus"}[1m]) > 0')


def board(uid: str, title: str, rows: tuple[Row, ...]) -> Dashboard:
    """Return a dashboard; `uid` is in its address and never changes."""
    builder = (
        build.Dashboard(title)
        .uid(uid)
        .tags(["thalamus"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-30m", "now")
        .refresh("10s")
        .timezone("browser")
        .link(build.DashboardLink("Thalamus").type(DashboardLinkType.DASHBOARDS).tags(["thalamus"]))
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_edges())
        .annotation(_Starts())
    )
    for row in rows:
        builder.with_row(build.Row(row.title))
        for panel in row.panels:
            builder.with_panel(panel)
    found = builder.build()
    found.schema_version = _SCHEMA
    for number, panel in enumerate(found.panels or (), start=1):
        panel.id_val = number
    return found


def _edges() -> build.QueryVariable:
    """The choice of edges above the panels."""
    query = "label_values(thalamus_edge_sessions, instance)"
    return (
        build.QueryVariable("edge")
        .label("Edge")
        .datasource(SOURCE)
        .query({"query": query, "refId": "edge"})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)  # replicas come and go
        .include_all(True)
        .all_value(".*")
        .multi(True)
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )
