"""Arrays survive the wire whatever their strides, and never take more bytes than they need."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from fake_server import FakeServer

from theria import InvalidArgument
from theria._arrays import decode_data, host_tensor, to_framework
from theria.v1 import tensor_pb2

BASE = np.arange(2 * 3 * 8 * 4, dtype=np.float32).reshape(2, 3, 8, 4)

# name -> array, elements that may be sent
STRIDED: dict[str, tuple[Any, int]] = {
    "row-major": (BASE, BASE.size),
    "transposed": (BASE.transpose(0, 2, 1, 3), BASE.size),
    "fortran": (np.asfortranarray(BASE), BASE.size),
    "broadcast": (np.broadcast_to(BASE[:, :1], (2, 3, 8, 4)), 2 * 8 * 4),
    "broadcast of a slice": (np.broadcast_to(BASE[:1, :1, ::2], (2, 3, 4, 4)), 16),
    "sparse slice": (BASE[..., ::2], BASE.size // 2),
    "slice with a dense span": (BASE[1], BASE[1].size),
    "negative strides": (BASE[::-1, :, ::-2], BASE.size // 2),
    "extent one": (BASE[:, 1:2, :, 3:], 16),
    "overlapping windows": (
        np.lib.stride_tricks.sliding_window_view(np.arange(10.0), 4),
        10,
    ),
    "scalar": (np.float64(3.0), 1),
    "big-endian": (BASE.astype(">f4"), BASE.size),
    "field of a record": (np.zeros(5, [("a", "u1"), ("b", "<f4")])["b"], 5),
    "nested lists": ([[1.0, 2.0], [3.0, 4.0]], 4),
    "torch transposed": (torch.from_numpy(BASE).transpose(1, 3), BASE.size),
    "torch expanded": (torch.ones(1, 1, 8, 4).expand(2, 3, 8, 4), 32),
    "torch negated view": (torch.imag(torch.ones(3, dtype=torch.complex64).conj()), 3),
    "torch bfloat16": (torch.arange(6.0).bfloat16().reshape(2, 3).t(), 6),
}


def as_numpy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().resolve_neg()
        if value.dtype == torch.bfloat16:
            return value.float().numpy().astype(ml_dtypes.bfloat16)
        return value.numpy()
    return np.asarray(value)


@pytest.mark.parametrize("name", STRIDED)
def test_round_trip(name: str) -> None:
    value, elements = STRIDED[name]
    host = host_tensor(value, "q")
    message = tensor_pb2.Tensor()
    host.write(message)
    np.testing.assert_array_equal(FakeServer().array(message), as_numpy(value))
    assert len(message.data) == host.payload_bytes == elements * host.dtype.itemsize


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("chunk_bytes", [8, 24, 1000])
def test_chunks_are_the_row_major_elements(name: str, chunk_bytes: int) -> None:
    value, _ = STRIDED[name]
    chunks = list(host_tensor(value, "q").chunks(chunk_bytes))
    expected = as_numpy(value)
    expected = expected.astype(expected.dtype.newbyteorder("<"))
    assert b"".join(chunks) == expected.tobytes()
    assert max(len(chunk) for chunk in chunks) <= chunk_bytes


def test_views_share_the_callers_memory() -> None:
    assert np.shares_memory(host_tensor(BASE.T, "q").array, BASE)
    tensor = torch.zeros(4, 3)
    assert np.shares_memory(host_tensor(tensor.t(), "q").array, tensor.numpy())


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.bool_]
)
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_dtypes_come_back(dtype: Any, framework: Any) -> None:
    array = np.array([[0, 1], [2, 3]]).astype(dtype)
    message = tensor_pb2.Tensor()
    host_tensor(to_framework(array, framework), "q").write(message)
    decoded = decode_data(message)
    assert decoded.dtype == dtype
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, array)
    assert host_tensor(to_framework(decoded, framework), "q").framework == framework


def test_a_leaf_is_taken_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert host_tensor(torch.ones(3, requires_grad=True), "q").shape == (3,)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3),
        np.array(["a"]),
        [[1.0], [1.0, 2.0]],
        torch.arange(3),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, device="meta"),
        torch.eye(2).to_sparse(),
        torch.eye(2, requires_grad=True),  # its gradient would be lost
        object(),
    ],
)
def test_what_is_no_tensor_of_ours_names_the_argument(value: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        host_tensor(value, "k_dot")
    assert caught.value.field.split(".")[0] == "k_dot"
    assert "k_dot" in str(caught.value)
