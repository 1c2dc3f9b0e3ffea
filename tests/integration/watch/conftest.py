"""A loaded server, and a real Prometheus that watches it with the configuration of deploy/."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/integration/python"))

from load import put_load_on  # noqa: E402
from prometheus_process import PrometheusProcess  # noqa: E402
from server_process import ServerProcess, server_binary  # noqa: E402

TOKEN = "watched-0123456789"


@pytest.fixture(scope="session")
def prometheus_binary() -> str:
    """Debian's package brings promtool along."""
    path = shutil.which("prometheus")
    if path is None:
        pytest.skip("prometheus not found; scripts/install_packages.sh --watch")
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With a tenant, a store so small that a load makes it evict, and the unit tests' fake GPUs."""
    directory = tmp_path_factory.mktemp("server")
    tenants = directory / "tenants.json"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tenants.write_text(json.dumps({"tenants": {"watched": {"tokens": [{"sha256": digest}]}}}))
    with pytest.MonkeyPatch.context() as patch:
        fake_driver = server_binary().resolve().parents[1] / "tests" / "fake_nvml"
        patch.setenv("LD_LIBRARY_PATH", str(fake_driver), prepend=os.pathsep)
        process = ServerProcess(directory, "--cache-bytes=4MiB", f"--tenants={tenants}")
    try:
        yield process
        assert process.stop() == 0, process.log()[-4000:]
    finally:
        process.kill()


@pytest.fixture(scope="session")
def prometheus(
    prometheus_binary: str, server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrometheusProcess]:
    """Watches the server under a mixed load, which goes on."""
    directory = tmp_path_factory.mktemp("prometheus")
    process = PrometheusProcess(prometheus_binary, directory, [server.metrics_target])
    is_over = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        load = threads.submit(put_load_on, server.target, TOKEN, is_over)
        try:
            process.wait_for("instance:grpc_server_faults:ratio_rate5m")
            yield process
        finally:
            is_over.set()
            process.kill()
        load.result()
