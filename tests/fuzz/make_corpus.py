"""Packs tests/fuzz/corpus.tar.xz: the seeds of the fuzz targets, and inputs that the fuzzers found.

    .venv/bin/python tests/fuzz/make_corpus.py [--found FOLDER]

Without --found, the seeds replace those in the archive and all its other inputs stay. With it,
the archive holds the seeds and the files of FOLDER/TARGET. Equal inputs give an equal archive.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path

from theria.v1 import attention_pb2, tensor_pb2, tensor_store_pb2

ARCHIVE = Path(__file__).resolve().parent / "corpus.tar.xz"
F32, F64, BOOL = tensor_pb2.FLOAT32, tensor_pb2.FLOAT64, tensor_pb2.BOOL


def tensor(shape: list[int], dtype: int = F32, **source: object) -> tensor_pb2.Tensor:
    """Of ones' worth of bytes, unless `source` says otherwise."""
    count = 1
    for extent in shape:
        count *= extent
    item = {F64: 8, BOOL: 1, F32: 4}.get(dtype, 2)
    fields = {"data": b"\x3f" * (count * item), **source}
    return tensor_pb2.Tensor(dtype=dtype, shape=shape, **fields)


def part(region: str, offset: int, size: int) -> tensor_pb2.SharedMemoryRef:
    """Of one of the regions of known.h, "a" to "d"."""
    return tensor_pb2.SharedMemoryRef(region=region, offset_bytes=offset, size_bytes=size)


def shared(shape: list[int], offset: int, dtype: int = F32, region: str = "a") -> tensor_pb2.Tensor:
    """The same as `tensor`, in a region."""
    size = len(tensor(shape, dtype).data)
    return tensor_pb2.Tensor(dtype=dtype, shape=shape, shared_memory=part(region, offset, size))


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
        "known": tensor_pb2.Tensor(handle="a").SerializeToString(),
        "known_strided": tensor_pb2.Tensor(
            handle="b", dtype=BOOL, shape=[3, 3], strides=[3, 1]
        ).SerializeToString(),
        "known_misfit": tensor_pb2.Tensor(handle="a", dtype=BOOL, shape=[3]).SerializeToString(),
        "strangers": tensor_pb2.Tensor(handle="c").SerializeToString(),
        "region": shared([1, 2, 3, 4], 256).SerializeToString(),
        "region_end": shared([8], 4864, region="b").SerializeToString(),
        "region_odd": shared([8], 4, region="a").SerializeToString(),
        "region_beyond": shared([1250], 256, region="b").SerializeToString(),
        "region_wrapped": tensor_pb2.Tensor(
            dtype=F64, shape=[1], shared_memory=part("a", (1 << 64) - 256, 8)
        ).SerializeToString(),
        "region_gone": shared([1], 0, region="d").SerializeToString(),
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
    resident = tensor_pb2.Tensor(handle="a")
    placed = {"q": shared([1, 2, 3, 4], 0), "k": shared([1, 1, 3, 4], 256), "v": resident}
    there = attention_pb2.OutputSpec(
        o=attention_pb2.SHARED, lse=attention_pb2.SHARED, shared_memory=part("b", 256, 2048)
    )
    overlapping = attention_pb2.OutputSpec(
        o=attention_pb2.SHARED, shared_memory=part("a", 256, 2048)
    )
    bars = attention_pb2.OutputSpec(
        q_bar=attention_pb2.SHARED,
        k_bar=attention_pb2.SHARED,
        v_bar=attention_pb2.RESIDENT,
        shared_memory=part("a", 4096, 4096),
    )
    shared_mask = attention_pb2.AttentionOptions(mask=shared([3, 3], 512, BOOL))
    found = {
        "forward_shared": (
            0,
            attention_pb2.ForwardRequest(
                q=resident, k=resident, v=resident, options=shared_mask, outputs=there
            ),
        ),
        "forward_overlapping": (0, attention_pb2.ForwardRequest(**placed, outputs=overlapping)),
        "vjp_shared": (
            1,
            attention_pb2.VjpRequest(
                q=shared([1, 2, 3, 4], 0),
                k=shared([1, 1, 3, 4], 256),
                v=shared([1, 1, 3, 5], 512),
                o_bar=shared([1, 2, 3, 5], 768),
                outputs=bars,
            ),
        ),
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

    hashed, cut, on_device = bytes([3, 8]), bytes([4, 0]), bytes([6, 1])
    raw = tensor_store_pb2.UploadRequest(
        header=tensor_store_pb2.UploadHeader(
            dtype=F64, shape=[2, 3], ttl_ms=1000, pin_ms=1, shared_memory=part("b", 4864, 48)
        )
    ).SerializeToString()
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
        "shared": bytes([5, 8]),
        "shared_and_chunk": bytes([5, 8]) + chunk(1),
        "shared_twice": bytes([5, 8]) + bytes([5, 8]),
        "shared_cut": bytes([5, 9]) + cut,
        "shared_raw": bytes([0, len(raw)]) + raw,
        "device": on_device + header(8) + chunk(8),
        "device_shared": on_device + bytes([5, 8]),
        "device_lent": on_device + bytes([5, 9]),
        "nothing": b"",
    }


def downloads() -> dict[str, bytes]:
    """Downloads: through the stream and shared memory, cut, from a device, of what is not there."""

    def download(flags: int, handle: str, **fields: object) -> bytes:
        request = tensor_store_pb2.DownloadRequest(handle=handle, **fields)
        return bytes([flags]) + request.SerializeToString()

    on_device, cut = 1, 2
    return {
        "whole": download(0, "a"),
        "pieces": download(0, "b", chunk_bytes=2),
        "cut": download(cut, "a", chunk_bytes=1),
        "device": download(on_device, "a", chunk_bytes=64),
        "shared": download(0, "a", shared_memory=part("a", 256, 96)),
        "shared_end": download(0, "b", shared_memory=part("b", 4864, 9)),
        "shared_small": download(0, "a", shared_memory=part("a", 0, 95)),
        "shared_beyond": download(0, "a", shared_memory=part("b", 4864, 137)),
        "device_shared": download(on_device, "a", shared_memory=part("a", 8064, 96)),
        "device_lent": download(on_device, "b", shared_memory=part("b", 512, 9)),
        "strangers": download(0, "c"),
        "strangers_region": download(0, "a", shared_memory=part("c", 0, 96)),
        "gone": download(0, "d"),
        "raw": b"\0\x0a\xff",
    }


def connections() -> dict[str, bytes]:
    """Clients of the descriptor socket: with names, with parts of them, many, closed."""

    def name(region: int) -> bytes:
        return bytes([1, region])

    another, close = bytes([3, 0]), bytes([4, 0])
    return {
        "host": name(0),
        "lent": name(1),
        "strangers": name(2),
        "deleted": name(3),
        "part": bytes([2, 47]),
        "too_much": name(0) + name(1),
        "late": bytes([0, 1]) + b"x" + name(0),
        "many": (name(0) + another) * 3 + bytes([2, 5]),
        "closed": name(0) + close + bytes([2, 9]) + close,
        "raw": bytes([0, 48]) + b"0" * 48,
        "silent": another,
    }


def seeds() -> dict[str, bytes]:
    """All of them, by their paths in the archive."""
    corpora = {
        "tensor": tensors(),
        "attention": requests(),
        "upload": scripts(),
        "download": downloads(),
        "socket": connections(),
    }
    return {
        f"corpus/{target}/{name}": data
        for target, inputs in corpora.items()
        for name, data in inputs.items()
    }


def unpacked() -> dict[str, bytes]:
    """The files of the archive."""
    with tarfile.open(ARCHIVE) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read() for name, file in files.items() if file is not None}


def pack(files: dict[str, bytes]) -> None:
    """Writes the archive, in order and without times and owners."""
    with tarfile.open(ARCHIVE, "w:xz", format=tarfile.USTAR_FORMAT, preset=9) as archive:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def main() -> None:
    """Packs the archive."""
    parser = argparse.ArgumentParser(description="Packs the corpus of the fuzz targets.")
    parser.add_argument("--found", type=Path, help="a folder of inputs for each target")
    found: Path | None = parser.parse_args().found
    inputs = (
        unpacked()
        if found is None
        else {
            f"corpus/{path.relative_to(found)}": path.read_bytes()
            for path in found.glob("*/*")
            if path.is_file()
        }
    )
    pack(inputs | seeds())


if __name__ == "__main__":
    main()
