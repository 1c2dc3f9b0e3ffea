"""The panels of each dashboard.

A panel is a title, a unit, and its queries with their legends; everything else is the same for all
of them and stands in build_dashboards.py.
"""

from __future__ import annotations

from dataclasses import dataclass


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
        "Refused logins",
        "reqps",
        {
            "{{reason}}": "sum by (reason) "
            "(rate(theria_refused_logins_total{SELECTED}[$__rate_interval]))"
        },
        description="UNAUTHENTICATED: no token or certificate, or one of no tenant.",
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
