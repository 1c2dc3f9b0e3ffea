"""CUDA IPC against a real server: inputs and outputs in GPU memory that this process lends.

    theria-server --backend cuda --shared-memory /tmp/theria-memory --listen 127.0.0.1:50051 &
    python tests/cuda/cuda_ipc_on_device.py 127.0.0.1:50051

Needs torch with CUDA, for the runtime library that it brings. Exit status 1 if values differ.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

import theria
from theria._operations import FORWARD
from theria._steps import SHARED_MEMORY_SERVICE, Call, Method
from theria.v1 import attention_pb2, shared_memory_pb2, tensor_pb2

SHAPE = (1, 2, 128, 64)
NBYTES = int(np.prod(SHAPE)) * 4
IMPORT = Method(
    f"/{SHARED_MEMORY_SERVICE}/ImportRegion",
    shared_memory_pb2.ImportRegionRequest,
    shared_memory_pb2.RegionInfo,
)


def runtime() -> Any:
    """The CUDA runtime, as torch loads it."""
    import torch

    torch.cuda.init()
    for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeError("no libcudart")


def check(status: int) -> None:
    """Raises for a CUDA error."""
    if status != 0:
        raise RuntimeError(f"CUDA error {status}")


def main() -> int:
    """Runs it; the return value is the exit status."""
    cuda = runtime()
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(3))
    memory = ctypes.c_void_p()
    check(cuda.cudaMalloc(ctypes.byref(memory), ctypes.c_size_t(4 * NBYTES)))
    assert memory.value is not None
    for i, array in enumerate((q, k, v)):
        place = ctypes.c_void_p(memory.value + i * NBYTES)
        check(cuda.cudaMemcpy(place, array.ctypes.data_as(ctypes.c_void_p), NBYTES, 1))

    class Handle(ctypes.Structure):
        _fields_ = [("reserved", ctypes.c_char * 64)]

    handle = Handle()
    check(cuda.cudaIpcGetMemHandle(ctypes.byref(handle), memory))
    check(cuda.cudaDeviceSynchronize())
    with theria.connect(sys.argv[1], timeout=60.0) as client:
        send = client._transport.call
        ask = shared_memory_pb2.ImportRegionRequest(
            cuda_ipc_handle=bytes(handle), size_bytes=4 * NBYTES
        )
        region = send(Call(IMPORT, ask, 30.0)).name
        request = attention_pb2.ForwardRequest()
        for i, tensor in enumerate((request.q, request.k, request.v)):
            tensor.dtype = tensor_pb2.FLOAT32
            tensor.shape.extend(SHAPE)
            tensor.shared_memory.region = region
            tensor.shared_memory.offset_bytes = i * NBYTES
            tensor.shared_memory.size_bytes = NBYTES
        request.outputs.o = attention_pb2.SHARED
        request.outputs.lse = attention_pb2.SKIP
        request.outputs.shared_memory.region = region
        request.outputs.shared_memory.offset_bytes = 3 * NBYTES
        request.outputs.shared_memory.size_bytes = NBYTES
        send(Call(FORWARD.method, request, 30.0))
        result = np.empty(SHAPE, np.float32)
        place = ctypes.c_void_p(memory.value + 3 * NBYTES)
        check(cuda.cudaMemcpy(result.ctypes.data_as(ctypes.c_void_p), place, NBYTES, 2))
        expected = client.forward(q, k, v).o
        ask.size_bytes = 1 << 40  # more than there is
        try:
            send(Call(IMPORT, ask, 30.0))
        except theria.InvalidArgument as refused:
            print(f"refused as it must be: {refused}")
        else:
            print("a size beyond the allocation was accepted")
            return 1
    if not np.array_equal(result, expected):
        print(f"outputs differ by up to {np.abs(result - expected).max()}")
        return 1
    print("inputs and outputs by CUDA IPC: the bytes of a call by messages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
