"""A loaded server, as Prometheus sees it."""

from __future__ import annotations

import math
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from observe import await_that
from prometheus_process import DEPLOYED, PrometheusProcess
from server_process import ServerProcess


def test_the_server_is_scraped(prometheus: PrometheusProcess, server: ServerProcess) -> None:
    prometheus.wait_for("up == 1")
    (target,) = prometheus.get("targets", state="active")["activeTargets"]
    assert target["labels"]["job"] == "theria"
    assert target["labels"]["instance"] == server.metrics_target


@pytest.mark.usefixtures("prometheus")
def test_promtool_finds_no_fault_with_the_metrics(server: ServerProcess) -> None:
    with urllib.request.urlopen(f"http://{server.metrics_target}/metrics") as answer:
        text = answer.read()
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_rule_has_been_evaluated(prometheus: PrometheusProcess) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    assert len(rules()) > 10
    await_that(lambda: all(rule["health"] == "ok" for rule in rules()), otherwise=rules)
    for rule in rules():
        if rule["type"] == "recording":
            prometheus.wait_for(rule["name"], lambda values: any(map(math.isfinite, values)))


def test_a_healthy_server_raises_no_critical_alert(prometheus: PrometheusProcess) -> None:
    """None that stays: a scrape that a busy machine does in more than a second is no fault."""

    def critical() -> list[dict[str, Any]]:
        alerts = prometheus.get("alerts")["alerts"]
        return [alert for alert in alerts if alert["labels"]["severity"] == "critical"]

    await_that(lambda: critical() == [], otherwise=critical)


def test_the_autoscalers_metric_is_there(prometheus: PrometheusProcess) -> None:
    """The query of deploy/prometheus/adapter.yml, filled in as the adapter does."""
    (rule,) = yaml.safe_load((DEPLOYED / "adapter.yml").read_text())["rules"]
    prometheus.wait_for(rule["seriesQuery"])
    query = rule["metricsQuery"]
    for name, value in {
        "<<.Series>>": rule["seriesQuery"].split('"')[1],
        "<<.LabelMatchers>>": 'namespace="theria",pod=~"theria-0"',
        "<<.GroupBy>>": "pod",
    }.items():
        query = query.replace(name, value)
    prometheus.wait_for(query, lambda values: len(values) == 1 and math.isfinite(values[0]))
    ((labels, seconds),) = prometheus.query(query)
    assert labels == {"pod": "theria-0"}
    assert 0 <= seconds < 10


@pytest.mark.parametrize(
    ("expression", "floor"),
    [
        ('sum(grpc_server_handled_total{grpc_code="InvalidArgument"})', 5),
        ('sum(theria_store_evictions_total{reason="watermark"})', 1),
        ('sum(theria_compute_seconds_count{op="hvp"})', 5),
        ("count(theria_gpu_memory_used_bytes)", 2),
        ('sum(theria_tenant_requests_total{tenant="watched"})', 100),
        ('max(instance_device:theria_gpu_memory_used:ratio{device="0"})', 0.26),
    ],
)
def test_the_load_is_seen(prometheus: PrometheusProcess, expression: str, floor: int) -> None:
    prometheus.wait_for(expression, lambda values: len(values) == 1 and values[0] >= floor)


def test_servers_come_by_the_targets_file_and_are_missed_when_dead(
    prometheus: PrometheusProcess, server: ServerProcess, tmp_path: Path
) -> None:
    other = ServerProcess(tmp_path)
    try:
        prometheus.watch([server.metrics_target, other.metrics_target])
        prometheus.wait_for(f'up{{instance="{other.metrics_target}"}} == 1')
    finally:
        other.kill()
    try:
        prometheus.wait_for(f'up{{instance="{other.metrics_target}"}} == 0')
        prometheus.wait_for('ALERTS{alertname="TheriaDown", alertstate="pending"}')
    finally:
        prometheus.watch([server.metrics_target])
