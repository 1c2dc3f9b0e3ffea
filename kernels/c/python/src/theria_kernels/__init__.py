"""The kernels of Theria as a shared library, for `theria.local`."""

from pathlib import Path

__all__ = ["LIBRARY"]

# The C interface is theria/kernels.h.
LIBRARY = Path(__file__).with_name("libtheria_kernels.so")
