"""Writes the seeds of the fuzz targets into tests/fuzz/corpus; what the fuzzers found lies beside.

.venv/bin/python tests/fuzz/make_corpus.py
"""

from __future__ import annotations

from pathlib import Path

from theria.v1 import attention_pb2, tensor_pb2

CORPUS = Path(__file__).resolve().parent / "corpus"
F32, F64, BOOL = tensor_pb2.FLOAT32, tensor_pb2.FLOAT64, tensor_pb2.BOOL


def tensor(shape: list[int], dtype: int = F32, **source: object) -> tensor_pb2.Tensor:
    """Of ones' worth of bytes, unless `source` says otherwise."""
    count = 1
    for extent in shape:
        count *= extent
    item = {F64: 8, BOOL: 1, F32: 4}.get(dtype, 2)
    fields = {"data": b"\x3f" * (count * item), **source}
    return tensor_pb2.Tensor(dtype=dtype, shape=shape, **fields)


def tensors() -> dict[str, bytes]:
    """Tensors: good, strided, resident, shared, too short, too large."""
    strided = tensor([2, 3], strides=[0, 1], data=b"\0" * 12)
    return {
        "row_major": tensor([1, 2, 3, 4]).SerializeToString(),
        "strided": strided.SerializeToString(),
        "resident": tensor_pb2.Tensor(handle="0" * 48).SerializeToString(),
        "shared": tensor_pb2.Tensor(
            dtype=F32, shape=[1], shared_memory=tensor_pb2.SharedMemoryRef(region="r")
        ).SerializeToString(),
        "short": tensor([2, 2], data=b"1").SerializeToString(),
        "overflow": tensor_pb2.Tensor(
            dtype=F64, shape=[1 << 62, 1 << 62], data=b"1"
        ).SerializeToString(),
        "negative": tensor_pb2.Tensor(
            dtype=F32, shape=[-1, 4], strides=[-4, 1], data=b"1234"
        ).SerializeToString(),
    }


def requests() -> dict[str, bytes]:
    """Requests of the four operations, with options and with mistakes."""
    q, o_bar = tensor([1, 2, 3, 4]), tensor([1, 2, 3, 5])
    k, v = tensor([1, 1, 3, 4]), tensor([1, 1, 3, 5])
    base = {"q": q, "k": k, "v": v}
    tangents = {"q_dot": q, "k_dot": k, "v_dot": v}
    causal = attention_pb2.AttentionOptions(is_causal=True)
    masked = attention_pb2.AttentionOptions(mask=tensor([3, 3], BOOL))
    found = {
        "forward": (0, attention_pb2.ForwardRequest(**base)),
        "forward_causal": (0, attention_pb2.ForwardRequest(**base, options=causal)),
        "forward_masked": (0, attention_pb2.ForwardRequest(**base, options=masked)),
        "forward_misfit": (0, attention_pb2.ForwardRequest(q=q, k=v, v=k)),
        "vjp": (1, attention_pb2.VjpRequest(**base, o_bar=o_bar)),
        "jvp": (2, attention_pb2.JvpRequest(**base, **tangents)),
        "hvp": (3, attention_pb2.HvpRequest(**base, **tangents, o_bar=o_bar)),
    }
    return {
        name: bytes([operation]) + request.SerializeToString()
        for name, (operation, request) in found.items()
    }


def scripts() -> dict[str, bytes]:
    """Uploads: good, found by content, wrong in every order, broken off."""

    def chunk(size: int) -> bytes:
        return bytes([1, size])

    def header(size: int) -> bytes:
        return bytes([2, size])

    hashed, cut = bytes([3, 8]), bytes([4, 0])
    return {
        "whole": header(8) + chunk(8),
        "pieces": header(9) + chunk(4) + chunk(0) + chunk(5),
        "hashed": hashed + chunk(8),
        "short": header(8) + chunk(7),
        "long": header(8) + chunk(9),
        "headless": chunk(8),
        "two_headers": header(8) + header(8) + chunk(8),
        "cut": header(8) + chunk(4) + cut,
        "cut_whole": header(8) + chunk(8) + cut,
        "raw": bytes([0, 3]) + b"\x0a\xff\x01" + chunk(1),
        "nothing": b"",
    }


def main() -> None:
    """Writes all of them."""
    for target, seeds in (("tensor", tensors()), ("attention", requests()), ("upload", scripts())):
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (CORPUS / target / name).write_bytes(data)


if __name__ == "__main__":
    main()
