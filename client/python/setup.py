"""Generates the messages before the package is built; all else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

sys.path.insert(0, str(Path(__file__).resolve().parent))
from generate import generate


class BuildPy(build_py):
    """build_py over freshly generated messages."""

    def run(self) -> None:
        """Generates, then builds."""
        generate()
        super().run()


class SDist(sdist):
    """A source distribution that carries the generated messages."""

    def run(self) -> None:
        """Generates, then packs."""
        generate()
        super().run()


setup(cmdclass={"build_py": BuildPy, "sdist": SDist})
