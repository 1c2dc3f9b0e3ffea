"""What promtool says of the configuration and the rules that deploy/prometheus ships."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_process import DEPLOYED

pytestmark = pytest.mark.usefixtures("prometheus_binary")
RULES_TEST = Path(__file__).resolve().parent / "rules_test.yml"


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_and_its_rules_are_valid() -> None:
    said = promtool("check", "config", DEPLOYED / "prometheus.yml")
    assert "2 rule files found" in said


def test_the_rules_do_what_they_say(tmp_path: Path) -> None:
    shutil.copytree(DEPLOYED / "rules", tmp_path / "rules")
    shutil.copy(RULES_TEST, tmp_path)
    promtool("test", "rules", tmp_path / RULES_TEST.name)


def alerts() -> set[str]:
    groups = yaml.safe_load((DEPLOYED / "rules" / "alerts.yml").read_text())["groups"]
    return {rule["alert"] for group in groups for rule in group["rules"]}


def test_every_alert_is_in_the_manual() -> None:
    manual = (DEPLOYED.parents[1] / "docs" / "deployment.md").read_text()
    assert set(re.findall(r"^\| (Theria\w+) \|", manual, re.MULTILINE)) == alerts()


def test_every_alert_has_a_test() -> None:
    fired = {
        case["alertname"]
        for test in yaml.safe_load(RULES_TEST.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert alerts() == fired
