"""Writes the Grafana dashboards under dashboards/ from the panels of panels.py.

python deploy/grafana/build_dashboards.py

Queries are limited to the servers that `$instance` selects.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from panels import BENCHMARKS, GPUS, SERVICE, STORE, Panel

DASHBOARDS = Path(__file__).resolve().parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECT = 'job="theria",instance=~"$instance"'
GRID_COLUMNS, PANEL_HEIGHT = 24, 8


def panel_json(panel: Panel, number: int, column: int, row: int) -> dict[str, Any]:
    """A panel as Grafana stores it, at its place in the grid."""
    targets = [
        {
            "datasource": DATASOURCE,
            "expr": query.replace("SELECTED", SELECT),
            "legendFormat": legend,
            "refId": chr(ord("A") + i),
        }
        for i, (legend, query) in enumerate(panel.queries.items())
    ]
    height = PANEL_HEIGHT if panel.kind == "timeseries" else PANEL_HEIGHT // 2
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}}
    if panel.kind == "timeseries":
        options = {"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": column, "y": row, "w": panel.width, "h": height},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": options,
        "targets": targets,
    }


def dashboard_json(uid: str, title: str, panels: list[Panel]) -> dict[str, Any]:
    """A dashboard: panels from left to right, a new row where one does not fit."""
    placed: list[dict[str, Any]] = []
    column, row, row_height = 0, 0, 0
    for number, panel in enumerate(panels, start=1):
        if column + panel.width > GRID_COLUMNS:
            column, row = 0, row + row_height
            row_height = 0
        placed.append(panel_json(panel, number, column, row))
        column += panel.width
        row_height = max(row_height, placed[-1]["gridPos"]["h"])
    datasource = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }
    instance = {
        "name": "instance",
        "label": "Server",
        "type": "query",
        "datasource": DATASOURCE,
        "definition": 'label_values(theria_build_info{job="theria"}, instance)',
        "query": {
            "query": 'label_values(theria_build_info{job="theria"}, instance)',
            "refId": "instance",
        },
        "includeAll": True,
        "allValue": ".+",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "refresh": 2,
    }
    return {
        "uid": uid,
        "title": title,
        "tags": ["theria"],
        "schemaVersion": 38,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [datasource, instance]},
        "links": [
            {
                "type": "dashboards",
                "title": "Theria",
                "tags": ["theria"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "panels": placed,
    }


def dashboards() -> dict[str, str]:
    """File name -> content."""
    made = {
        "service.json": dashboard_json("theria-service", "Theria: service", SERVICE),
        "store.json": dashboard_json("theria-store", "Theria: tensor store", STORE),
        "benchmarks.json": dashboard_json("theria-benchmarks", "Theria: benchmarks", BENCHMARKS),
        "gpus.json": dashboard_json("theria-gpus", "Theria: GPUs", GPUS),
    }
    return {name: json.dumps(content, indent=2) + "\n" for name, content in made.items()}


if __name__ == "__main__":
    DASHBOARDS.mkdir(exist_ok=True)
    for name, text in dashboards().items():
        (DASHBOARDS / name).write_text(text)
        print(DASHBOARDS / name)
