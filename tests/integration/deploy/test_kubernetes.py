"""The manifests of deploy/kustomize, held against the API's schemas and against each other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from server_process import server_binary

ROOT = Path(__file__).resolve().parents[3]
KUSTOMIZE = ROOT / "deploy" / "kustomize"
sys.path.insert(0, str(ROOT / "deploy" / "prometheus"))

import build_prometheus_rule  # noqa: E402

# The oldest release whose probes speak gRPC without a feature gate, and a recent one.
KUBERNETES = ("1.27", "1.34")
OPERATOR_KINDS = {"ServiceMonitor": ServiceMonitor, "PrometheusRule": PrometheusRule}
UNITS = {"MiB": 2**20, "GiB": 2**30, "Mi": 2**20, "Gi": 2**30}

Manifest = dict[str, Any]


def require_kubectl() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl with kustomize 5 not found")
    version = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True)
    if "Kustomize Version: v5" not in version.stdout:
        pytest.skip(f"kubectl with kustomize 5 not found: {version.stdout.strip()}")


def kustomize(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    require_kubectl()
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def by_kind(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Services by kind and name."""
    return {
        (m["kind"] if m["kind"] != "Service" else f"Service {m['metadata']['name']}"): m
        for m in manifests
    }


def container_of(manifests: dict[str, Manifest]) -> Manifest:
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def manifests(overlay: str) -> dict[str, Manifest]:
    return by_kind(kustomize(KUSTOMIZE / "overlays" / overlay))


@pytest.fixture(scope="module")
def container(manifests: dict[str, Manifest]) -> Manifest:
    return container_of(manifests)


def flags(container: Manifest) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])


def size(text: str) -> int:
    digits = text.rstrip("MiGB")
    return int(digits) * UNITS[text[len(digits) :]]


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_api_knows_every_field(manifests: dict[str, Manifest], version: str) -> None:
    checked = 0
    for manifest in manifests.values():
        if manifest["kind"] not in OPERATOR_KINDS:
            kubernetes_validate.validate(manifest, version, strict=True)
            checked += 1
    assert checked == 8


@pytest.mark.parametrize("kind", OPERATOR_KINDS)
def test_the_operator_knows_every_field(manifests: dict[str, Manifest], kind: str) -> None:
    """A field that the model does not know gets lost on the way through it."""
    manifest = manifests[kind]
    read = OPERATOR_KINDS[kind].model_validate(manifest)
    assert without_nulls(read.model_dump(by_alias=True, mode="json")) == manifest


def test_a_field_that_is_none_is_seen(manifests: dict[str, Manifest]) -> None:
    wrong = {**manifests["Deployment"], "spec": {**manifests["Deployment"]["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)
    monitor = manifests["ServiceMonitor"]
    monitor = {**monitor, "spec": {**monitor["spec"], "endpoint": []}}
    read = ServiceMonitor.model_validate(monitor)
    assert without_nulls(read.model_dump(by_alias=True, mode="json")) != monitor


def test_selectors_find_the_pods(manifests: dict[str, Manifest]) -> None:
    deployment = manifests["Deployment"]["spec"]
    pod = deployment["template"]["metadata"]["labels"].items()
    for selector in (
        deployment["selector"]["matchLabels"],
        manifests["Service theria"]["spec"]["selector"],
        manifests["Service theria-headless"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= pod
    assert manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "theria"


def test_a_scrape_becomes_the_job_of_the_rules(manifests: dict[str, Manifest]) -> None:
    monitor, service = manifests["ServiceMonitor"]["spec"], manifests["Service theria"]
    labels = service["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "theria"
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= ports
    # The headless service has no such port, so that no pod is scraped twice.
    headless = manifests["Service theria-headless"]["spec"]["ports"]
    assert not {endpoint["port"] for endpoint in monitor["endpoints"]} & {
        port["name"] for port in headless
    }


def test_the_operators_rules_are_those_of_prometheus() -> None:
    assert build_prometheus_rule.RESOURCE.read_text() == build_prometheus_rule.prometheus_rule()


def test_the_autoscaler_reads_what_the_adapter_serves(manifests: dict[str, Manifest]) -> None:
    adapter = yaml.safe_load((ROOT / "deploy/prometheus/adapter.yml").read_text())
    recording = (ROOT / "deploy/prometheus/rules/recording.yml").read_text()
    (rule,) = adapter["rules"]
    (metric,) = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    recorded = rule["seriesQuery"].split('"')[1]
    assert f"record: {recorded}\n" in recording


def test_the_drain_fits_into_the_grace_period(
    manifests: dict[str, Manifest], container: Manifest
) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    drain = flags(container)["drain-timeout"]
    assert command == "sleep"
    assert int(seconds) + int(drain.removesuffix("s")) < pod["terminationGracePeriodSeconds"]


def test_memory_holds_what_the_flags_promise(container: Manifest, overlay: str) -> None:
    """On a GPU the store is the device's, and spills to the host."""
    given = flags(container)
    store = given[{"cpu": "cache-bytes", "gpu": "spill-bytes"}[overlay]]
    promised = size(given["max-queued-bytes"]) + size(given["max-transport-bytes"]) + size(store)
    assert promised + size("512Mi") <= size(container["resources"]["limits"]["memory"])


def test_the_server_accepts_the_flags(container: Manifest) -> None:
    """All but the backend, which this build may lack, and the address: refused, but read last."""
    arguments = [argument for argument in container["args"] if not argument.startswith("--backend")]
    done = subprocess.run(
        [server_binary(), *arguments, "--listen=nowhere"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "theria-server: --listen is 'nowhere', must be HOST:PORT\n"


def test_pods_run_restricted(manifests: dict[str, Manifest], container: Manifest) -> None:
    """What the namespace's level `restricted` of the pod security standards asks for."""
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["automountServiceAccountToken"] is False
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == 50051


def test_the_gpu_overlay_asks_for_one(container: Manifest, overlay: str) -> None:
    assert flags(container)["backend"] == {"cpu": "cpu", "gpu": "cuda"}[overlay]
    asked = container["resources"]["limits"].get("nvidia.com/gpu")
    assert asked == {"cpu": None, "gpu": "1"}[overlay]
    assert container["image"] == {"cpu": "theria:cpu", "gpu": "theria:cuda"}[overlay]


@pytest.fixture(scope="module")
def identified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """An operator's own overlay with TLS and tenants, as docs/deployment.md shows it."""
    folder = tmp_path_factory.mktemp("overlay")
    paths = {"resources": "overlays/cpu", "components": "components/identity"}
    own = {key: [os.path.relpath(KUSTOMIZE / path, folder)] for key, path in paths.items()}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    return by_kind(kustomize(folder))


def test_identity_adds_to_the_flags(identified: dict[str, Manifest]) -> None:
    container = container_of(identified)
    plain = container_of(by_kind(kustomize(KUSTOMIZE / "overlays/cpu")))
    assert set(container["args"]) - set(plain["args"]) == {
        "--tls-cert=/etc/theria/tls/tls.crt",
        "--tls-key=/etc/theria/tls/tls.key",
        "--tenants=/etc/theria/tenants/tenants.json",
    }
    assert set(plain["args"]) < set(container["args"])


def test_identity_mounts_what_the_flags_name(identified: dict[str, Manifest]) -> None:
    pod = identified["Deployment"]["spec"]["template"]["spec"]
    container = container_of(identified)
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    named = [Path(flags(container)[flag]) for flag in ("tls-cert", "tls-key", "tenants")]
    secrets = [volumes[mounts[str(path.parent)]]["secret"]["secretName"] for path in named]
    assert secrets == ["theria-tls", "theria-tls", "theria-tenants"]
    assert "run" in volumes


def test_identity_is_valid_and_probed_without_tls(identified: dict[str, Manifest]) -> None:
    for version in KUBERNETES:
        for kind in ("Deployment", "Service theria"):
            kubernetes_validate.validate(identified[kind], version, strict=True)
    container = container_of(identified)
    assert '"unix:/run/theria/server.sock"' in (ROOT / "deploy/container/server.toml").read_text()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "grpc" not in container[probe]
        assert container[probe]["exec"]["command"] == [
            "theria",
            "health",
            "unix:/run/theria/server.sock",
        ]
    assert "appProtocol" not in identified["Service theria"]["spec"]["ports"][0]
