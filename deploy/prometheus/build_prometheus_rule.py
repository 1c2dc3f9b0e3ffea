"""Writes the rules of rules/*.yml as the Prometheus operator's resource, for deploy/kustomize.

python deploy/prometheus/build_prometheus_rule.py
"""

from __future__ import annotations

from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
RESOURCE = HERE.parent / "kustomize/components/prometheus-operator/prometheus_rule.yaml"


def prometheus_rule() -> str:
    """The file's content."""
    groups = [
        group
        for path in sorted((HERE / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "theria",
            "namespace": "theria",
            "labels": {"app.kubernetes.io/name": "theria"},
        },
        "spec": {"groups": groups},
    }
    return (
        "# Written by deploy/prometheus/build_prometheus_rule.py from deploy/prometheus/rules.\n"
        + yaml.safe_dump(resource, sort_keys=False, width=100)
    )


if __name__ == "__main__":
    RESOURCE.write_text(prometheus_rule())
    print(RESOURCE)
