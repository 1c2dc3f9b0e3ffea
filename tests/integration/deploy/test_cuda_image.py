"""What the image with the CUDA backend has beyond the other; on a machine without a GPU, too."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from buildah import ROOT, Container

# Of ELF's e_machine.
EM_CUDA = 190

pytestmark = pytest.mark.deploy


@pytest.fixture(scope="module")
def container(cuda_image: str) -> Iterator[Container]:
    container = Container.of(cuda_image)
    yield container
    container.remove()


def test_it_asks_for_the_gpus(container: Container) -> None:
    environment = dict(entry.split("=", 1) for entry in container.configuration["Env"])
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    # compute: libcuda; utility: libnvidia-ml, which the metrics of GPUs come from.
    assert set(environment["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}
    assert container.configuration["Cmd"] == ["--backend", "cuda"]


def test_every_kernel_is_in_it(container: Container) -> None:
    """Each source is a cubin of its own, for one kind of GPU: an ELF file for the machine CUDA."""
    server = (container.root() / "usr/bin/theria-server").read_bytes()
    machines = [
        int.from_bytes(server[found.end() + 11 :][:2], "little")
        for found in re.finditer(rb"\x7fELF\x02\x01\x01", server)
    ]
    lines = re.findall(
        r"^[a-z]\w+ +\w+ +([a-z_, ]+) : ([0-9 ]+)$",
        (ROOT / "kernels/cuda/variants.def").read_text(),
        re.MULTILINE,
    )
    instantiations = sum(len(kinds.split()) * len(dims.split()) for kinds, dims in lines)
    assert lines
    others = len([*(ROOT / "kernels/cuda").rglob("*.cu"), "table.cu"])
    assert machines.count(EM_CUDA) == instantiations + others


def test_without_a_gpu_it_says_so_and_ends(container: Container) -> None:
    configuration = container.configuration
    done = container.run(*configuration["Entrypoint"], *configuration["Cmd"])
    assert done.returncode == 1, done.stderr
    assert "theria-server: there is no CUDA device: no NVIDIA driver is installed" in done.stderr
