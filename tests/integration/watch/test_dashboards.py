"""Every query of every dashboard, run against a Prometheus that watched a loaded server."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_process import PrometheusProcess

ROOT = Path(__file__).resolve().parents[3]
GRAFANA = ROOT / "deploy" / "grafana"
sys.path.insert(0, str(GRAFANA))

import build_dashboards  # noqa: E402

DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text())
    for path in sorted((GRAFANA / "dashboards").glob("*.json"))
}
QUERIES = [
    pytest.param(target["expr"], id=f"{name}: {panel['title']}, {target['legendFormat']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel["targets"]
]
# What Grafana puts in place of its variables: all servers, and four scrapes at least.
VARIABLES = {"$instance": ".+", "$__rate_interval": "1m"}


def test_the_files_are_what_the_script_writes() -> None:
    written = {path.name: path.read_text() for path in (GRAFANA / "dashboards").glob("*.json")}
    assert written == build_dashboards.dashboards()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_are_complete_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        assert panel["title"]
        assert panel["targets"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= build_dashboards.GRID_COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_returns_data(prometheus: PrometheusProcess, query: str) -> None:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query
    prometheus.wait_for(query, lambda values: any(map(math.isfinite, values)))


def test_a_query_of_nothing_is_told_apart(prometheus: PrometheusProcess) -> None:
    assert prometheus.query("theria_no_such_metric") == []
    with pytest.raises(ValueError, match="parse error"):
        prometheus.query("sum(")
