"""The kernels of Theria as a shared library, for `theria.local`."""

from pathlib import Path

__all__ = ["BINDING", "LIBRARY"]

# The C interface is theria/kernels.h.
LIBRARY = Path(__file__).with_name("libtheria_kernels.so")
# The extension module that calls it; theria loads the library first.
BINDING = Path(__file__).with_name("_binding.abi3.so")
