"""Memory shared by this process and a server on the same host, and the flows for it."""

from __future__ import annotations

import array
import contextlib
import math
import mmap
import os
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from theria._arrays import NumpyArray
from theria._errors import (
    Error,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    RegionMissing,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from theria._options import milliseconds
from theria._session import Session
from theria._steps import SHARED_MEMORY_SERVICE, Call, Deadline, Flow, Method, T, retrying
from theria.v1 import shared_memory_pb2 as pb
from theria.v1 import tensor_pb2

__all__ = ["SharedPlace", "SharedRegion", "share", "unshare", "with_regions"]

CREATE = Method(f"/{SHARED_MEMORY_SERVICE}/CreateRegion", pb.CreateRegionRequest, pb.RegionInfo)
RENEW = Method(f"/{SHARED_MEMORY_SERVICE}/RenewRegion", pb.RenewRegionRequest, pb.RegionInfo)
DELETE = Method(
    f"/{SHARED_MEMORY_SERVICE}/DeleteRegion", pb.DeleteRegionRequest, pb.DeleteRegionResponse
)

# The contract requires offsets of tensors to be multiples of this.
ALIGNMENT_BYTES = 256

_SOCKET_SECONDS = 5.0

# Errors after which the call has also ended on the server. The transport raises all others.
_ANSWERS = (InvalidArgument, FailedPrecondition, ResourceExhausted, Unimplemented)


class SharedRegion:
    """Memory shared by this process and the server. `Client.share` creates it.

    The arrays of `empty`, and views of them, are ordinary numpy arrays (`torch.from_numpy` accepts
    them). Calls of the client that created the region read them in place. An array's space is
    reused after its last view is destroyed. The memory is unmapped after the last array and the
    region are destroyed. Thread-safe.

    Attributes:
        nbytes: Size of the region.
        is_shared: Whether the server has the region, according to the last call that used it. If
            not, calls send their tensors in messages, and `Client.share` creates another region.
    """

    def __init__(self, name: str, memory: mmap.mmap):
        self.nbytes = len(memory)
        self.is_shared = True
        self._name = name
        self._bytes: NumpyArray = np.frombuffer(memory, np.uint8)
        self._address: int = self._bytes.ctypes.data
        self._free = _FreeList(self.nbytes)
        self._stranded: list[NumpyArray] = []

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike = "float32") -> NumpyArray:
        """A new row-major array in the region, with unspecified elements.

        Raises:
            MemoryError: There is no contiguous space of that size.
        """
        dtype = np.dtype(dtype)
        extents = (shape,) if isinstance(shape, int) else tuple(shape)
        nbytes = math.prod(extents) * dtype.itemsize
        return self.block(nbytes).view(dtype).reshape(extents)

    def block(self, nbytes: int) -> NumpyArray:
        """A block of `nbytes` bytes at a multiple of 256; see `empty`."""
        offset = self._free.take(_round_up(nbytes))
        block = _Block(self._bytes, self._address + offset, nbytes)
        weakref.finalize(block, self._free.give, offset, _round_up(nbytes))
        return np.asarray(block)

    def strand(self, block: NumpyArray) -> None:
        """Keeps a block unused for the life of the region."""
        self._stranded.append(block)

    def part(self, memory: NumpyArray) -> tensor_pb2.SharedMemoryRef | None:
        """The part of the region that a contiguous one-dimensional array covers, or None."""
        offset = memory.ctypes.data - self._address
        if not 0 <= offset <= self.nbytes - memory.nbytes or offset % ALIGNMENT_BYTES:
            return None
        return tensor_pb2.SharedMemoryRef(
            region=self._name, offset_bytes=offset, size_bytes=memory.nbytes
        )

    def __repr__(self) -> str:
        return f"SharedRegion({self.nbytes} bytes)"  # the name is a secret


class _Block:
    """Owns a part of a region while numpy references it."""

    def __init__(self, memory: NumpyArray, address: int, nbytes: int):
        self._memory = memory
        self.__array_interface__ = {
            "version": 3,
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
        }


class _FreeList:
    """The free bytes of a region: disjoint, ordered (offset, size); first fit."""

    def __init__(self, nbytes: int):
        self._holes = [(0, nbytes)]
        self._lock = threading.Lock()
        self._returned: deque[tuple[int, int]] = deque()

    def take(self, nbytes: int) -> int:
        with self._lock:
            while self._returned:
                self._merge(self._returned.popleft())
            for i, (offset, size) in enumerate(self._holes):
                if size >= nbytes:
                    rest = [(offset + nbytes, size - nbytes)] if size > nbytes else []
                    self._holes[i : i + 1] = rest
                    return offset
        raise MemoryError(f"the shared region has no {nbytes} bytes left in one piece")

    def give(self, offset: int, nbytes: int) -> None:
        # Without the lock: the garbage collector may call this during `take`.
        self._returned.append((offset, nbytes))

    def _merge(self, returned: tuple[int, int]) -> None:
        merged: list[tuple[int, int]] = []
        for hole in sorted([*self._holes, returned]):
            if merged and sum(merged[-1]) == hole[0]:
                merged[-1] = (merged[-1][0], merged[-1][1] + hole[1])
            else:
                merged.append(hole)
        self._holes = merged


def _round_up(nbytes: int) -> int:
    return max(1, -(-nbytes // ALIGNMENT_BYTES)) * ALIGNMENT_BYTES


def share(
    session: Session, deadline: Deadline, nbytes: int, ttl: float | None
) -> Flow[SharedRegion]:
    """Creates a region and maps it."""
    if nbytes < 1:
        raise InvalidArgument.of("nbytes", f"nbytes is {nbytes}, must be at least 1")
    size = _round_up(nbytes)
    request = pb.CreateRegionRequest(size_bytes=size, ttl_ms=milliseconds(ttl, "ttl"))
    info: pb.RegionInfo = yield from retrying(
        session.retry, deadline, lambda timeout: Call(CREATE, request, timeout)
    )
    try:
        memory = _map(info.socket, info.name, size)
    except BaseException:
        # The region is useless now. If this call fails too, the region ends with its lease.
        with contextlib.suppress(Error):
            yield Call(DELETE, pb.DeleteRegionRequest(name=info.name), deadline.remaining())
        raise
    region = SharedRegion(info.name, memory)
    session.regions.add(region)
    return region


def unshare(session: Session, deadline: Deadline, region: SharedRegion) -> Flow[None]:
    """Releases a region on the server."""
    _forget(session, region)
    yield from _on_region(session, deadline, DELETE, region)


def with_regions(session: Session, deadline: Deadline, attempt: Callable[[], Flow[T]]) -> Flow[T]:
    """Runs a flow. If the server has lost regions or no longer shares memory, runs it once more.

    The second run sends the arrays of lost regions in messages.
    """
    had = tuple(session.regions)
    try:
        return (yield from attempt())
    except RegionMissing:
        yield from _forget_lost(session, deadline)
    except Unimplemented:
        yield from _forget_lost(session, deadline)
        if all(region.is_shared for region in had):
            raise
    return (yield from attempt())


def _forget_lost(session: Session, deadline: Deadline) -> Flow[None]:
    """Asks the server for each region, because the error does not identify the lost ones."""
    for region in tuple(session.regions):
        with contextlib.suppress(Error):
            yield from _on_region(session, deadline, RENEW, region)


def _on_region(
    session: Session, deadline: Deadline, method: Method[Any, Any], region: SharedRegion
) -> Flow[None]:
    """An RPC about one region.

    Raises:
        RegionMissing: The server no longer has it. The session forgets it too.
    """
    request = method.request(name=region._name)
    try:
        yield from retrying(session.retry, deadline, lambda timeout: Call(method, request, timeout))
    except (RegionMissing, Unimplemented) as error:
        _forget(session, region)
        raise RegionMissing(
            f"the server does not share this region ({error.message}): "
            "its arrays stay and go by messages; Client.share makes another region",
            request_id=error.request_id,
        ) from error


def _forget(session: Session, region: SharedRegion) -> None:
    region.is_shared = False
    session.regions.discard(region)


def _map(path: str, name: str, nbytes: int) -> mmap.mmap:
    """Maps a region that the server has just created. Raises as `_receive_descriptor`."""
    descriptor = _receive_descriptor(path, name)
    try:
        return mmap.mmap(descriptor, nbytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(descriptor)


def _receive_descriptor(path: str, name: str) -> int:
    """The file descriptor of a region.

    Raises:
        Unavailable: The socket is not accessible: another host, another container, no permission.
        Internal: The server sends no descriptor.
    """
    space = socket.CMSG_SPACE(array.array("i").itemsize)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_SOCKET_SECONDS)
            connection.connect(path)
            connection.sendall(name.encode())
            _, ancillary, _, _ = connection.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"cannot get shared memory at {path}: {error}") from error
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data)
    if len(descriptors) != 1:
        raise Internal(f"the server gave no shared memory at {path}")
    return descriptors[0]


class SharedPlace:
    """Space in a region for the outputs of one call.

    After an attempt without a response, the server may still be writing to the space, so it is not
    used again.

    Args:
        region: The region.
        sizes: Bytes of each output, in order.

    Attributes:
        part: The space, as sent to the server.
    """

    part: tensor_pb2.SharedMemoryRef

    def __init__(self, region: SharedRegion, sizes: Iterable[int]):
        self._region = region
        self._take(sum(map(_round_up, sizes)))

    def _take(self, nbytes: int) -> None:
        self._block = self._region.block(nbytes)
        part = self._region.part(self._block)
        assert part is not None
        self.part = part

    def move(self) -> None:
        """Takes other space, for an attempt after one without a response."""
        self._region.strand(self._block)
        self._take(self._block.nbytes)

    @contextlib.contextmanager
    def during_call(self) -> Iterator[None]:
        """Surrounds a call that uses this space."""
        try:
            yield
        except _ANSWERS:
            raise
        except BaseException:
            self._region.strand(self._block)
            raise

    def memory(self, part: tensor_pb2.SharedMemoryRef) -> NumpyArray:
        """The bytes of one output.

        Raises:
            Internal: The server wrote it outside this space.
        """
        begin = part.offset_bytes - self.part.offset_bytes
        if not 0 <= begin <= self._block.nbytes - part.size_bytes:
            raise Internal("the server put an output elsewhere")
        return self._block[begin : begin + part.size_bytes]
