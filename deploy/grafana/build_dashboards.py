"""Writes the Grafana dashboards under dashboards/ from the panels listed here.

python deploy/grafana/build_dashboards.py

A panel is a title, a unit, and its queries with their legends; everything else is the same for all
of them and stands once below. Queries are limited to the servers that `$instance` selects.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).resolve().parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECT = 'job="theria",instance=~"$instance"'
GRID_COLUMNS, PANEL_HEIGHT = 24, 8


@dataclass(frozen=True)
class Panel:
    """One panel. `kind` is Grafana's name of the visualisation; `unit` one of its unit ids."""

    title: str
    unit: str
    queries: dict[str, str]  # legend -> PromQL; SELECTED: the servers on show
    kind: str = "timeseries"
    description: str = ""
    width: int = 8


def quantiles(metric: str, by: str = "", select: str = "") -> dict[str, str]:
    """The 50th, 95th and 99th percentile of a histogram, split by the label `by`."""
    legend = f" {{{{{by}}}}}" if by else ""
    labels = ", ".join(filter(None, ("le", by)))
    return {
        f"p{percent}{legend}": f"histogram_quantile({percent / 100}, sum by ({labels}) "
        f"(rate({metric}_bucket{{SELECTED{select}}}[$__rate_interval])))"
        for percent in (50, 95, 99)
    }


THERIA = ',grpc_service=~"theria.*"'

SERVICE = [
    Panel("Servers up", "none", {"up": "sum(up{SELECTED})"}, "stat", width=4),
    Panel(
        "Version",
        "none",
        {
            "{{version}} {{backend}} {{commit}}": "count by (version, backend, commit) "
            "(theria_build_info{SELECTED})"
        },
        "stat",
        width=8,
    ),
    Panel(
        "Uptime",
        "s",
        {"{{instance}}": "time() - process_start_time_seconds{SELECTED}"},
        "stat",
        width=4,
    ),
    Panel(
        "Calls per second",
        "reqps",
        {"calls": "sum(rate(grpc_server_handled_total{SELECTED" + THERIA + "}[$__rate_interval]))"},
        "stat",
        width=4,
    ),
    Panel(
        "Faults",
        "percentunit",
        {"faults": "max(instance:grpc_server_faults:ratio_rate5m{SELECTED})"},
        "stat",
        "INTERNAL, UNKNOWN and DATA_LOSS, as a share of all calls in five minutes.",
        width=4,
    ),
    Panel(
        "Calls by method",
        "reqps",
        {
            "{{grpc_method}}": "sum by (grpc_method) "
            "(rate(grpc_server_started_total{SELECTED" + THERIA + "}[$__rate_interval]))"
        },
    ),
    Panel(
        "Calls by outcome",
        "reqps",
        {
            "{{grpc_code}}": "sum by (grpc_code) "
            "(rate(grpc_server_handled_total{SELECTED" + THERIA + "}[$__rate_interval]))"
        },
    ),
    Panel(
        "Error ratio",
        "percentunit",
        {
            "faults {{instance}}": "instance:grpc_server_faults:ratio_rate5m{SELECTED}",
            "refused {{instance}}": "instance:grpc_server_refused:ratio_rate5m{SELECTED}",
        },
        description="Refused: RESOURCE_EXHAUSTED. Mistakes of clients count as neither.",
    ),
    Panel(
        "Time of a call",
        "s",
        quantiles("grpc_server_handling_seconds", select=THERIA),
        description="From the first byte of the request to the status.",
    ),
    Panel(
        "Time of a call, 99th percentile by method",
        "s",
        {
            "{{grpc_method}}": "max by (grpc_method) (instance_method:"
            "grpc_server_handling_seconds:p99_5m{SELECTED" + THERIA + "})"
        },
    ),
    Panel(
        "Time in the queue",
        "s",
        quantiles("theria_queue_seconds"),
        description="From acceptance to the start of the computation.",
    ),
    Panel(
        "Time of a computation, median by operation",
        "s",
        {
            "{{op}} {{dtype}} {{implementation}}": "histogram_quantile(0.5, "
            "sum by (le, op, dtype, implementation) "
            "(rate(theria_compute_seconds_bucket{SELECTED}[$__rate_interval])))"
        },
    ),
    Panel(
        "Computations under way, by operation",
        "none",
        {"{{op}}": "sum by (op) (instance_op:theria_compute_seconds:rate5m{SELECTED})"},
        description="On average over five minutes: how many slots each operation keeps busy.",
    ),
    Panel(
        "Queue and slots",
        "none",
        {
            "queued {{instance}}": "theria_queue_depth{SELECTED}",
            "running {{instance}}": "theria_running_requests{SELECTED}",
        },
    ),
    Panel("Accepted bytes", "bytes", {"{{instance}}": "theria_accepted_bytes{SELECTED}"}),
    Panel(
        "Requests computed together",
        "none",
        quantiles("theria_coalesced_requests"),
        description="Small requests of equal shape that one computation answered.",
    ),
    Panel(
        "Requests by tenant",
        "reqps",
        {
            "{{tenant}}": "sum by (tenant) "
            "(rate(theria_tenant_requests_total{SELECTED}[$__rate_interval]))"
        },
    ),
    Panel(
        "Refusals by tenant",
        "reqps",
        {
            "{{tenant}} {{reason}}": "sum by (tenant, reason) "
            "(rate(theria_tenant_refusals_total{SELECTED}[$__rate_interval]))"
        },
        description="RESOURCE_EXHAUSTED before acceptance: the tenant's rate, its share of the "
        "queue, or the server's queue.",
    ),
    Panel(
        "Memory",
        "bytes",
        {
            "resident {{instance}}": "process_resident_memory_bytes{SELECTED}",
            "store {{instance}}": "theria_store_bytes{SELECTED}",
        },
    ),
    Panel(
        "CPU",
        "none",
        {"{{instance}}": "rate(process_cpu_seconds_total{SELECTED}[$__rate_interval])"},
        description="Cores in use.",
    ),
]

STORE = [
    Panel(
        "Used",
        "percentunit",
        {"{{instance}}": "instance:theria_store_used:ratio{SELECTED}"},
        "gauge",
        "Above 90% the least recently used tensors are dropped.",
        width=6,
    ),
    Panel(
        "Pinned",
        "percentunit",
        {"{{instance}}": "instance:theria_store_pinned:ratio{SELECTED}"},
        "gauge",
        "Pinned tensors are never dropped.",
        width=6,
    ),
    Panel("Tensors", "none", {"{{instance}}": "theria_store_entries{SELECTED}"}, "stat", width=6),
    Panel(
        "Misses",
        "percentunit",
        {"{{instance}}": "instance:theria_store_misses:ratio_rate5m{SELECTED}"},
        "stat",
        "Share of reads whose tensor was gone.",
        width=6,
    ),
    Panel(
        "Bytes",
        "bytes",
        {
            "held {{instance}}": "theria_store_bytes{SELECTED}",
            "pinned {{instance}}": "theria_store_pinned_bytes{SELECTED}",
            "being written {{instance}}": "theria_store_pending_bytes{SELECTED}",
            "capacity {{instance}}": "theria_store_capacity_bytes{SELECTED}",
        },
        width=12,
    ),
    Panel(
        "Tensors that left, by reason",
        "ops",
        {
            "{{reason}}": "sum by (reason) "
            "(rate(theria_store_evictions_total{SELECTED}[$__rate_interval]))"
        },
        width=12,
    ),
    Panel(
        "Reads",
        "ops",
        {
            "found": "sum(rate(theria_store_hits_total{SELECTED}[$__rate_interval]))",
            "missed": "sum(rate(theria_store_misses_total{SELECTED}[$__rate_interval]))",
        },
        width=12,
    ),
    Panel(
        "Uploads and downloads",
        "reqps",
        {
            "{{grpc_method}} {{grpc_code}}": "sum by (grpc_method, grpc_code) "
            '(rate(grpc_server_handled_total{SELECTED,grpc_service="theria.v1.TensorService",'
            'grpc_method=~"Upload|Download"}[$__rate_interval]))'
        },
        width=12,
    ),
    Panel(
        "Store by tenant",
        "percentunit",
        {
            "{{tenant}} {{instance}}": "theria_tenant_store_bytes{SELECTED} "
            "/ theria_tenant_store_quota_bytes{SELECTED}"
        },
        description="Of what the tenant may hold.",
        width=12,
    ),
    Panel(
        "Spilled to host memory",
        "bytes",
        {
            "spilled {{instance}}": "theria_store_spilled_bytes{SELECTED}",
            "capacity {{instance}}": "theria_store_spill_capacity_bytes{SELECTED}",
        },
        description="Tensors that the GPU has no room for.",
        width=12,
    ),
    Panel(
        "Spilling",
        "Bps",
        {
            "to the host": "sum(rate(theria_store_spill_bytes_total{SELECTED}[$__rate_interval]))",
            "back": "sum(rate(theria_store_restore_bytes_total{SELECTED}[$__rate_interval]))",
        },
        width=12,
    ),
    Panel(
        "Host memory",
        "bytes",
        {
            "resident {{instance}}": "process_resident_memory_bytes{SELECTED}",
            "kept {{instance}}": "theria_host_kept_bytes{SELECTED}",
        },
        description="Of the resident memory, what is kept for the next tensors until calls pause.",
        width=12,
    ),
    Panel(
        "Time of an upload",
        "s",
        quantiles("grpc_server_handling_seconds", select=',grpc_method="Upload"'),
        width=12,
    ),
    Panel(
        "Time of a download",
        "s",
        quantiles("grpc_server_handling_seconds", select=',grpc_method="Download"'),
        width=12,
    ),
]

_BENCHMARK_LEGEND = "{{op}} {{shape}} {{dtype}} {{implementation}}"
BENCHMARKS = [
    Panel(
        "Median time",
        "s",
        {_BENCHMARK_LEGEND: "theria_benchmark_seconds{SELECTED}"},
        description="Of one repetition in the last RunBenchmark of each problem.",
        width=12,
    ),
    Panel(
        "Operations per second",
        "flops",
        {_BENCHMARK_LEGEND: "theria_benchmark_flops_per_second{SELECTED}"},
        width=12,
    ),
    Panel(
        "Bytes per second",
        "Bps",
        {
            _BENCHMARK_LEGEND: "theria_benchmark_bytes{SELECTED} "
            "/ theria_benchmark_seconds{SELECTED}"
        },
        description="Inputs and outputs over the median time.",
        width=12,
    ),
    Panel(
        "Operations per byte",
        "none",
        {
            _BENCHMARK_LEGEND: "theria_benchmark_flops_per_second{SELECTED} "
            "* theria_benchmark_seconds{SELECTED} / theria_benchmark_bytes{SELECTED}"
        },
        description="Arithmetic intensity.",
        width=12,
    ),
    Panel(
        "Cost against the forward pass",
        "none",
        {
            "{{op}} {{shape}} {{dtype}} {{implementation}}": "theria_benchmark_seconds"
            '{SELECTED,op!="forward"} / on (instance, shape, dtype, implementation) group_left () '
            'theria_benchmark_seconds{SELECTED,op="forward"}'
        },
        description="Where forward was benchmarked on the same problem.",
        width=24,
    ),
]

_GPU_LEGEND = "{{instance}} GPU {{device}}"
GPUS = [
    Panel(
        "GPUs",
        "none",
        {"{{name}}": "count by (name) (theria_gpu_info{SELECTED})"},
        "stat",
        width=6,
    ),
    Panel(
        "Lost",
        "none",
        {
            "lost": "count(theria_gpu_info{SELECTED}) "
            "- count(theria_gpu_memory_used_bytes{SELECTED})"
        },
        "stat",
        "GPUs that the driver lists and that answer no more.",
        width=6,
    ),
    Panel(
        "Power of all", "watt", {"power": "sum(theria_gpu_power_watts{SELECTED})"}, "stat", width=6
    ),
    Panel(
        "Energy of a call",
        "joule",
        {
            "energy": "sum(rate(theria_gpu_energy_joules_total{SELECTED}[$__rate_interval])) "
            "/ sum(rate(theria_compute_seconds_count{SELECTED}[$__rate_interval]))"
        },
        "stat",
        "All that the GPUs used over the computations that ended, idle time included.",
        width=6,
    ),
    Panel(
        "Utilisation",
        "percentunit",
        {_GPU_LEGEND: "theria_gpu_utilization_ratio{SELECTED}"},
        description="Share of time with a kernel running, however small.",
        width=12,
    ),
    Panel(
        "Memory",
        "percentunit",
        {_GPU_LEGEND: "instance_device:theria_gpu_memory_used:ratio{SELECTED}"},
        description="By all processes.",
        width=12,
    ),
    Panel(
        "Temperature",
        "celsius",
        {_GPU_LEGEND: "theria_gpu_temperature_celsius{SELECTED}"},
        width=12,
    ),
    Panel("Power", "watt", {_GPU_LEGEND: "theria_gpu_power_watts{SELECTED}"}, width=12),
]


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
