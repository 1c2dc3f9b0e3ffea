"""Resident tensors: references to tensors in the server's store, accepted in place of arrays."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from typing_extensions import Self

from theria._arrays import Framework, HostTensor, host_tensor
from theria._dtypes import decode_dtype
from theria.v1 import tensor_store_pb2

if TYPE_CHECKING:
    from theria._session import Session

__all__ = ["ResidentTensor", "Retain", "Source", "TensorInfo", "decode_info"]

# What `put` keeps: the array itself, a weak reference to it, or nothing.
Retain = Literal["strong", "weak", "none"]


@dataclass(frozen=True)
class TensorInfo:
    """The server's description of a resident tensor.

    Attributes:
        handle: Its handle.
        dtype: Element type.
        shape: Extents.
        size_bytes: Bytes of the elements.
        expires_in: Seconds until the lease ends.
        pinned_for: Seconds until the pin ends by itself; 0 if not pinned.
        sha256: Digest of the elements, or None if the tensor is not content-addressed.
        device: Location of the bytes: ``"host"``, ``"cuda:0"``.
        readers: Requests that are reading it now.
    """

    handle: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size_bytes: int
    expires_in: float
    pinned_for: float
    sha256: bytes | None
    device: str
    readers: int


def decode_info(info: tensor_store_pb2.TensorInfo) -> TensorInfo:
    """Converts the message; milliseconds become seconds."""
    return TensorInfo(
        handle=info.handle,
        dtype=decode_dtype(info.dtype),
        shape=tuple(info.shape),
        size_bytes=info.size_bytes,
        expires_in=info.expires_in_ms / 1e3,
        pinned_for=info.pinned_for_ms / 1e3,
        sha256=info.sha256 or None,
        device=info.device,
        readers=info.readers,
    )


class Source:
    """The array from which a lost resident tensor is uploaded again.

    Args:
        tensor: The uploaded tensor.
        owner: The session of the client that uploaded it. Only that client uploads it again: for
            others the tensor may be missing because it belongs to another server or tenant, which
            must not receive the elements.
        original: The caller's object, which is then referenced weakly; None keeps `tensor` alive.
        fingerprint: Of the row-major elements, so that a modified array is not uploaded again;
            None if it cannot change.
        ttl_ms: As given to `put`; 0 for the server's default.
        pin_ms: As given to `put`; 0 for none.
        content_address: As given to `put`.
    """

    def __init__(
        self,
        tensor: HostTensor,
        owner: Session,
        original: Any = None,
        *,
        fingerprint: bytes | None = None,
        ttl_ms: int = 0,
        pin_ms: int = 0,
        content_address: bool = False,
    ):
        self.owner = owner
        self._tensor = tensor if original is None else None
        self._original = None if original is None else weakref.ref(original)
        self.fingerprint = fingerprint
        self.ttl_ms = ttl_ms
        self.pin_ms = pin_ms
        self.content_address = content_address

    def tensor(self) -> HostTensor | None:
        """The array, or None if it was referenced weakly and no longer exists."""
        if self._original is None:
            return self._tensor
        original = self._original()
        return None if original is None else host_tensor(original, "tensor")


class ResidentTensor:
    """A tensor in a server's store. `Client.put`, `Client.attach` and operations return it.

    Immutable except for its handle, which changes if a lost tensor is uploaded again. Thread-safe.
    Destroying this object does not free the tensor; the end of the lease or `Client.delete` does.
    Pickling omits the original array. A copy is the object itself.

    Attributes:
        dtype: Element type.
        shape: Extents.
        framework: The type of arrays returned by `Client.get` and by calls with this tensor as `q`:
            ``"numpy"`` or ``"torch"``.
    """

    def __init__(
        self,
        handle: str,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        framework: Framework = "numpy",
        source: Source | None = None,
    ):
        self._handle = handle
        self._lock = threading.Lock()
        self.dtype = dtype
        self.shape = shape
        self.framework = framework
        self.source = source

    @property
    def handle(self) -> str:
        """The current handle on the server."""
        return self._handle

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def replace_handle(self, old: str, new: str) -> bool:
        """Sets the handle if it is still `old`; returns False if another thread changed it."""
        with self._lock:
            if self._handle != old:
                return False
            self._handle = new
            return True

    def __reduce__(self) -> tuple[Any, ...]:
        return ResidentTensor, (self._handle, self.dtype, self.shape, self.framework)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        return f"ResidentTensor({self._handle!r}, {self.dtype}, {list(self.shape)})"
