"""Debian's buildah, without a daemon, a registry or a container runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
# What runs keep for later ones: the base, images and their layers.
KEPT = ROOT / "build" / "deploy"
BASE = "localhost/theria-test-base"
CUDA_BASE = "localhost/theria-test-cuda-base"
# That of a container whose image names none.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def buildah_command(*arguments: str | Path) -> list[str]:
    storage = (f"--root={KEPT / 'storage'}", f"--runroot={KEPT / 'run'}")
    return ["buildah", *storage, *map(str, arguments)]


def buildah_environment() -> dict[str, str]:
    """What works inside of a container, too; the environment's own choice wins.

    The storage driver is buildah's to choose; STORAGE_DRIVER=vfs works everywhere.
    """
    return {"BUILDAH_ISOLATION": "chroot", "BUILDAH_LAYERS": "true", **os.environ}


def buildah(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        buildah_command(*arguments),
        env=buildah_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or not check, (arguments, done.stdout[-8000:], done.stderr[-8000:])
    return done


def make_base(folder: Path) -> str:
    """A minimal Debian as an image; its name.

    With this machine's certificate authorities, for pip to reach its index as it does from here.
    """
    if buildah("images", "--quiet", BASE, check=False).stdout:
        return BASE
    KEPT.mkdir(parents=True, exist_ok=True)
    archive = KEPT / "base.tar"
    if not archive.exists():
        root = folder / "root"
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root], check=True)
        shutil.rmtree(root / "var/cache/apt/archives")
        shutil.rmtree(root / "var/lib/apt/lists")
        partial = archive.with_suffix(".partial")
        with tarfile.open(partial, "w") as tar:
            tar.add(root, arcname=".")
        partial.replace(archive)
        shutil.rmtree(root)
    shutil.copy(CERTIFICATES, folder / "authorities.crt")
    (folder / "Dockerfile").write_text(
        f"FROM scratch\nADD {archive.name} /\n"
        "COPY authorities.crt /usr/local/share/authorities.crt\n"
        "ENV PIP_CERT=/usr/local/share/authorities.crt\n"
    )
    os.link(archive, folder / archive.name)
    buildah("build", "--tag", BASE, folder)
    return BASE


def make_cuda_base(base: str, toolkit: Path, folder: Path) -> str:
    """`base` with the CUDA compiler of the folder `toolkit` where NVIDIA's images have theirs.

    Not with CUDA's libraries, 0.2 GB instead of several: of them all Theria links the static
    runtime alone.
    """
    dockerfile = folder / "Dockerfile"
    libraries = ("libcudart.so", "libcudart_static.a", "libcudadevrt.a")
    sources = " ".join(f"lib64/{library}" for library in libraries)
    target = "/usr/local/cuda/targets/x86_64-linux"
    dockerfile.write_text(
        f"FROM {base}\n"
        "COPY bin /usr/local/cuda/bin\n"
        "COPY nvvm /usr/local/cuda/nvvm\n"
        "COPY include /usr/local/cuda/include\n"
        f"COPY {sources} /usr/local/cuda/lib/\n"
        f"RUN mkdir -p {target} && ln -s ../../include ../../lib {target}\n"
        f"ENV PATH=/usr/local/cuda/bin:{PATH}\n"
    )
    buildah("build", f"--file={dockerfile}", "--tag", CUDA_BASE, toolkit)
    return CUDA_BASE


def build_image(target: str, *arguments: str) -> str:
    """The image of this target of the Dockerfile; its name.

    Compiles with this machine's compiler cache, where there is one.
    """
    name = f"localhost/theria:{target}"
    compiled = Path(os.environ.get("CCACHE_DIR", Path.home() / ".cache/ccache"))
    volumes = [f"--volume={compiled}:/root/.cache/ccache"] if compiled.is_dir() else []
    options = ("--format=docker", f"--target={target}", f"--tag={name}")
    anew = f"--build-arg=THERIA_BUILD={time.time_ns()}"
    buildah("build", *options, *arguments, anew, *volumes, ROOT)
    return name


@dataclass(frozen=True)
class Container:
    """A container of an image, with the user and commands that the image's configuration names."""

    name: str
    configuration: dict[str, Any]

    @classmethod
    def of(cls, image: str) -> Container:
        inspected = json.loads(buildah("inspect", "--type=image", image).stdout)
        name = buildah("from", "--pull-never", image).stdout.strip()
        return cls(name, inspected["Docker"]["config"])

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return buildah("run", self.name, "--", *command, check=False)

    def start(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """The entry point, with these arguments in place of the image's own."""
        command = ("run", self.name, "--", *self.configuration["Entrypoint"], *arguments)
        with log.open("wb") as output:
            return subprocess.Popen(
                buildah_command(*command),
                env=buildah_environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def is_healthy(self) -> bool:
        kind, *command = self.configuration["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.run(*command).returncode == 0

    def copy(self, source: Path, destination: str) -> None:
        buildah("copy", self.name, source, destination)

    def root(self) -> Path:
        return Path(buildah("mount", self.name).stdout.strip())

    def remove(self) -> None:
        buildah("rm", self.name)
