"""The resident tensors of a local client: arrays that it keeps."""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from theria._arrays import Framework
from theria._errors import TensorMissing
from theria._resident import ResidentTensor, TensorInfo

__all__ = ["LocalStore"]


@dataclass
class _Entry:
    array: Any  # row-major; numpy's or torch's
    framework: Framework
    dtype: np.dtype[Any]
    expires: float  # of time.monotonic
    sha256: bytes | None
    pinned_until: float = 0.0
    handle: str = field(default_factory=lambda: secrets.token_hex(16))

    def info(self, now: float) -> TensorInfo:
        is_cuda = getattr(self.array, "is_cuda", False)
        return TensorInfo(
            handle=self.handle,
            dtype=self.dtype,
            shape=tuple(self.array.shape),
            size_bytes=int(self.array.nbytes),
            expires_in=self.expires - now,
            pinned_for=max(0.0, self.pinned_until - now),
            sha256=self.sha256,
            device=str(self.array.device) if is_cuda else "host",
            readers=0,
        )


class LocalStore:
    """Handle -> array. Thread-safe. A tensor whose lease has ended is gone."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def add(
        self,
        array: Any,
        framework: Framework,
        *,
        ttl: float | None = None,
        pin: float | None = None,
        content_address: bool = False,
    ) -> ResidentTensor:
        """Keeps `array`, which nobody else may change, for `ttl` seconds; None for ever."""
        now = time.monotonic()
        dtype = _numpy_dtype(array)
        sha256 = _digest(array) if content_address else None
        expires = math.inf if ttl is None else now + ttl
        entry = _Entry(array, framework, dtype, expires, sha256)
        if pin is not None:
            entry.pinned_until = now + pin
        with self._lock:
            self._entries[entry.handle] = entry
        return ResidentTensor(entry.handle, dtype, tuple(array.shape), framework)

    def attach(self, handle: str) -> ResidentTensor:
        """A tensor by its handle."""
        entry = self._find(handle)
        return ResidentTensor(handle, entry.dtype, tuple(entry.array.shape), entry.framework)

    def array(self, tensor: ResidentTensor | str) -> Any:
        """The array itself, to be read only.

        Raises:
            TensorMissing: It is not here.
        """
        return self._find(tensor).array

    def info(self, tensor: ResidentTensor | str) -> TensorInfo:
        """Describes a tensor."""
        return self._find(tensor).info(time.monotonic())

    def renew(self, tensor: ResidentTensor | str, ttl: float | None) -> TensorInfo:
        """Lets the lease end `ttl` seconds from now; None for never."""
        entry, now = self._find(tensor), time.monotonic()
        entry.expires = math.inf if ttl is None else now + ttl
        return entry.info(now)

    def pin(self, tensor: ResidentTensor | str, duration: float | None) -> TensorInfo:
        """Keeps the tensor for `duration` seconds whatever its lease; None for ever, 0 ends it."""
        entry, now = self._find(tensor), time.monotonic()
        entry.pinned_until = math.inf if duration is None else now + duration
        return entry.info(now)

    def delete(self, tensor: ResidentTensor | str) -> None:
        """Forgets a tensor. Calls that read it finish."""
        handle = self._find(tensor).handle
        with self._lock:
            self._entries.pop(handle, None)

    def infos(self) -> tuple[TensorInfo, ...]:
        """All tensors, oldest first."""
        now = time.monotonic()
        with self._lock:
            self._drop_expired(now)
            return tuple(entry.info(now) for entry in self._entries.values())

    def _find(self, tensor: ResidentTensor | str) -> _Entry:
        handle = tensor if isinstance(tensor, str) else tensor.handle
        with self._lock:
            self._drop_expired(time.monotonic())
            entry = self._entries.get(handle)
        if entry is None:
            raise TensorMissing(
                "no resident tensor of that handle: unknown, expired, evicted or deleted; upload "
                "again and retry",
                handles=(handle,),
            )
        return entry

    def _drop_expired(self, now: float) -> None:
        ended = [
            handle
            for handle, entry in self._entries.items()
            if max(entry.expires, entry.pinned_until) <= now
        ]
        for handle in ended:
            del self._entries[handle]


def _numpy_dtype(array: Any) -> np.dtype[Any]:
    if isinstance(array, np.ndarray):
        dtype: np.dtype[Any] = array.dtype
        return dtype
    name = str(array.dtype).removeprefix("torch.")
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _digest(array: Any) -> bytes:
    if not isinstance(array, np.ndarray):
        import torch

        array = array.cpu().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(array.tobytes()).digest()
