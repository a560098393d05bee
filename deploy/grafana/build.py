"""Writes dashboards/*.json from overview.py, delivery.py and dependencies.py: `python -m deploy.grafana.build`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploy.grafana.delivery import DELIVERY
from deploy.grafana.dependencies import DEPENDENCIES
from deploy.grafana.overview import OVERVIEW
from deploy.grafana.panels import Board, Panel

BOARDS = (OVERVIEW, DELIVERY, DEPENDENCIES)
FOLDER = Path(__file__).parent / "dashboards"
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SCHEMA = 39  # Grafana 11; later ones migrate it when they read it
_WIDTH = 24
_HEIGHT = {False: 8, True: 4}
# Units that Grafana does not know it shows as they are: `suffix:` says so.
_UNITS = {"pubps": "suffix: pub/s", "delps": "suffix: del/s", "cps": "suffix: /s"}
_WINDOW = "[$__rate_interval]"


def render(board: Board) -> str:
    """The JSON that Grafana reads; alike every time."""
    document = {
        "uid": board.uid,
        "title": board.title,
        "tags": ["thalamus"],
        "schemaVersion": _SCHEMA,
        "editable": False,
        "graphTooltip": 1,  # the crosshair is shared
        "time": {"from": "now-30m", "to": "now"},
        "refresh": "10s",
        "timezone": "browser",
        "links": [{"type": "dashboards", "title": "Thalamus", "tags": ["thalamus"], "asDropdown": False}],
        "templating": {"list": [_datasource_variable(), _edge_variable()]},
        "annotations": {"list": [_starts()]},
        "panels": _panels(board),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _panels(board: Board) -> list[dict[str, Any]]:
    """Rows from above, panels from the left, numbered in that order."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in board.rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
            }
        )
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > _WIDTH or (x and height != _HEIGHT[panel.stat]):
                x, y = 0, y + height
            height = _HEIGHT[panel.stat]
            place = {"x": x, "y": y, "w": panel.width, "h": height}
            panels.append(_panel(panel, len(panels) + 1, place))
            x += panel.width
        y += height
    return panels


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    unit = _UNITS.get(panel.unit, panel.unit)
    found: dict[str, Any] = {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.help,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": query.replace("RATE", _WINDOW),
                "legendFormat": legend,
                "instant": panel.stat,
                "range": not panel.stat,
            }
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }
    if panel.stat:
        found["options"] = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    else:
        found["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return found


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _edge_variable() -> dict[str, Any]:
    query = "label_values(thalamus_edge_sessions, instance)"
    return {
        "name": "edge",
        "label": "Edge",
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "edge"},
        "refresh": 2,  # whenever the time range changes: replicas come and go
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _starts() -> dict[str, Any]:
    """A mark where a process of ours began."""
    return {
        "name": "Starts of processes",
        "datasource": _DATASOURCE,
        "enable": True,
        "expr": 'changes(process_start_time_seconds{job!="prometheus"}[1m]) > 0',
        "titleFormat": "{{job}} started",
        "iconColor": "blue",
    }


def main() -> None:
    """Write every file anew."""
    FOLDER.mkdir(exist_ok=True)
    for board in BOARDS:
        (FOLDER / f"{board.uid}.json").write_text(render(board), encoding="utf-8")


if __name__ == "__main__":
    main()
