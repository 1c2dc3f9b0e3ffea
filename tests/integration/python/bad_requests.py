"""The table of bad requests: what is sent, and the code, field and handles that must come back.

`REQUESTS` is the table.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from spoiled_requests import (
    ATTENTION,
    Bad,
    attend,
    both,
    forward,
    hvp,
    jvp,
    put,
    repeated,
    resident,
    tensor,
    vjp,
)

from theria.v1 import attention_pb2 as attention
from theria.v1 import server_pb2, tensor_pb2
from theria.v1 import tensor_store_pb2 as store

TENSOR = "/theria.v1.TensorService"
SERVER = "/theria.v1.ServerService"

# Limits of the server that the table is run against.
MAX_MESSAGE_BYTES = 4 << 20
CACHE_BYTES = 16 << 20
MAX_QUEUED_BYTES = 32 << 20
SERVER_FLAGS = (
    f"--max-message-bytes={MAX_MESSAGE_BYTES}",
    f"--cache-bytes={CACHE_BYTES}",
    f"--max-queued-bytes={MAX_QUEUED_BYTES}",
    "--max-ttl=1h",
    "--max-pin=1m",
    "--max-benchmark-repetitions=50",
    "--log-level=warn",
)

# Handles of tensors that the test makes resident before.
HANDLE_K = "{k}"  # float32 [1, 2, 3, 4], as the valid k
HANDLE_RANK5 = "{rank5}"  # float32 [1, 1, 1, 1, 1]
UNKNOWN = "no-such-handle"

MALFORMED = {
    "a cut length": b"\x0a\x7f\x00",  # q of 127 bytes, one there
    "an endless varint": b"\xff" * 24,
    "field number zero": b"\x00\x00",
    "an open group": b"\x0b" * 40,
}
MALFORMED_FORWARD = [
    Bad(f"forward: bytes with {name}", f"{ATTENTION}/Forward", data)
    for name, data in MALFORMED.items()
] + [
    # To protobuf, q as a varint is an unknown field: q is absent.
    Bad("forward: bytes with a wrong wire type", f"{ATTENTION}/Forward", b"\x08\x01", field="q"),
]
MALFORMED_ELSEWHERE = [
    Bad(f"{path.rsplit('/', 1)[1].lower()}: malformed bytes", path, MALFORMED["a cut length"])
    for path in (
        f"{ATTENTION}/Vjp",
        f"{ATTENTION}/Jvp",
        f"{ATTENTION}/Hvp",
        f"{SERVER}/GetServerInfo",
        f"{SERVER}/RunBenchmark",
        f"{TENSOR}/Download",
        f"{TENSOR}/Stat",
        f"{TENSOR}/List",
        f"{TENSOR}/Renew",
        f"{TENSOR}/Pin",
        f"{TENSOR}/Unpin",
        f"{TENSOR}/Delete",
    )
]

TENSORS = [
    forward("no q", "q", put("q", None)),
    forward("no k", "k", put("k", None)),
    forward("no v", "v", put("v", None)),
    forward("empty request", "q", lambda r: r.Clear()),
    forward("no source", "q", put("q.data", None)),
    forward("dtype unspecified", "q.dtype", put("q.dtype", 0)),
    forward("dtype unknown", "q.dtype", put("q.dtype", 99)),
    forward("dtype negative", "k.dtype", put("k.dtype", -1)),
    forward("bool q", "q.dtype", put("q", tensor(1, 2, 3, 4, dtype=bool))),
    forward("mixed dtypes", "k.dtype", put("k", tensor(1, 2, 3, 4, dtype=np.float64))),
    forward("no shape", "q.shape", put("q.shape", [])),
    forward("three dimensions", "q.shape", put("q", tensor(2, 3, 4))),
    forward("five dimensions", "q.shape", put("q", tensor(1, 1, 2, 3, 4))),
    forward("a million dimensions", "q.shape", put("q.shape", [1] * 1_000_000)),
    forward("data of an empty tensor", "q.data", put("q.shape", [1, 2, 0, 4])),
    forward("extent negative", "v.shape[0]", put("v.shape", [-1, 2, 3, 4])),
    forward("extent least", "v.shape[3]", put("v.shape", [1, 2, 3, -(2**63)])),
    forward("extents overflow", "q.shape", put("q.shape", [2**62, 2, 2**62, 4])),
    forward("extents overflow to little", "q.shape", put("q.shape", [2**32, 2**32, 1, 1])),
    forward("a tensor over the limit", "q.shape", put("q", repeated(1, 1, 2**40, 4))),
    forward(
        "inputs over the limit together",
        "q.shape",
        both(
            *(put(name, repeated(1, 1, 15 << 18, 1)) for name in "qkv"),
            put("outputs.o", attention.SKIP),
            put("outputs.lse", attention.SKIP),
        ),
    ),
    forward("strides too few", "q.strides", put("q.strides", [12, 4, 1])),
    forward("strides too many", "q.strides", put("q.strides", [24, 12, 4, 1, 1])),
    forward("stride negative", "q.strides[2]", put("q.strides", [24, 12, -4, 1])),
    forward("stride overflows", "q.strides[1]", put("q.strides", [0, 2**62, 4, 1])),
    forward("strides overflow", "q.strides[2]", put("q.strides", [0, 2**58, 2**58, 1])),
    forward("strides beyond the data", "q.data", put("q.strides", [24, 13, 4, 1])),
    forward("strides short of the data", "q.data", put("q.strides", [0, 0, 4, 1])),
    forward("data too short", "q.data", put("q.data", b"\0" * 95)),
    forward("data too long", "k.data", put("k.data", b"\0" * 97)),
    forward("data empty", "v.data", put("v.data", b"")),
    forward("k of another batch", "k.shape[0]", put("k", tensor(2, 2, 3, 4))),
    forward("heads that do not divide", "k.shape[1]", put("k", tensor(1, 3, 3, 4))),
    forward("k of another head_dim", "k.shape[3]", put("k", tensor(1, 2, 3, 5))),
    forward("v of other heads", "v.shape[1]", put("v", tensor(1, 1, 3, 4))),
    forward("v of another seq", "v.shape[2]", put("v", tensor(1, 2, 4, 4))),
    forward("head_dim too large", "q.shape[3]", put("q", tensor(1, 2, 3, 513))),
    forward("head_dim_v too large", "v.shape[3]", put("v", tensor(1, 2, 3, 513))),
    forward(
        "shared memory",
        None,
        put("q.shared_memory", tensor_pb2.SharedMemoryRef(region="r", size_bytes=96)),
        code="UNIMPLEMENTED",
    ),
]


MISSING = {"code": "FAILED_PRECONDITION"}
HANDLES = [
    forward("unknown handle", None, put("q", resident(UNKNOWN)), missing=(UNKNOWN,), **MISSING),
    forward("empty handle", None, put("q", resident("")), missing=("",), **MISSING),
    forward(
        "three unknown handles",
        None,
        both(
            put("q", resident("a")),
            put("v", resident("b")),
            put("options.mask", resident("c")),
        ),
        missing=("a", "b", "c"),
        **MISSING,
    ),
    forward(
        "one unknown handle twice",
        None,
        both(put("q", resident(UNKNOWN)), put("v", resident(UNKNOWN))),
        missing=(UNKNOWN,),
        **MISSING,
    ),
    forward("a handle cut short", None, put("k", resident(HANDLE_K + "0")), **MISSING),
    forward(
        "handle of another dtype",
        "k.dtype",
        put("k", resident(HANDLE_K, dtype=tensor_pb2.FLOAT64)),
    ),
    forward("handle of another shape", "k.shape", put("k", resident(HANDLE_K, shape=[1, 2, 4, 3]))),
    forward("handle with strides", "k.strides", put("k", resident(HANDLE_K, strides=[0, 0, 0, 1]))),
    forward("handle of five dimensions", "k.shape", put("k", resident(HANDLE_RANK5))),
]

nan, inf = math.nan, math.inf
OPTIONS = [
    forward("scale nan", "options.scale", put("options.scale", nan)),
    forward("scale infinite", "options.scale", put("options.scale", -inf)),
    forward("window negative", "options.window.left", put("options.window.left", -1)),
    forward("window least", "options.window.right", put("options.window.right", -(2**63))),
    forward(
        "dropout of one",
        "options.dropout.probability",
        put("options.dropout.probability", 1.0),
    ),
    forward(
        "dropout negative",
        "options.dropout.probability",
        put("options.dropout.probability", -0.1),
    ),
    forward("dropout nan", "options.dropout.probability", put("options.dropout.probability", nan)),
    forward(
        "dropout infinite", "options.dropout.probability", put("options.dropout.probability", inf)
    ),
    forward("precision unknown", "options.precision", put("options.precision", 77)),
    forward("implementation unknown", "options.implementation", put("options.implementation", -5)),
    forward(
        "no such kernel", None, put("options.implementation", attention.FUSED), code="UNIMPLEMENTED"
    ),
    forward(
        "no unfused kernel",
        None,
        put("options.implementation", attention.UNFUSED),
        code="UNIMPLEMENTED",
    ),
    forward("mask without source", "options.mask", put("options.mask.dtype", tensor_pb2.BOOL)),
    forward("mask of wrong keys", "options.mask.shape[1]", put("options.mask", tensor(3, 2))),
    forward(
        "mask of wrong heads", "options.mask.shape[1]", put("options.mask", tensor(1, 3, 3, 3))
    ),
    forward(
        "mask of five dimensions", "options.mask.shape", put("options.mask", tensor(1, 1, 1, 3, 3))
    ),
    forward(
        "mask of no dimension",
        "options.mask.shape",
        put("options.mask", tensor_pb2.Tensor(dtype=tensor_pb2.BOOL, data=b"\1")),
    ),
    forward(
        "mask dtype unspecified",
        "options.mask.dtype",
        both(put("options.mask", tensor(3, 3)), put("options.mask.dtype", 0)),
    ),
    forward(
        "mask data short",
        "options.mask.data",
        both(put("options.mask", tensor(3, 3)), put("options.mask.data", b"\0")),
    ),
    forward("output mode unknown", "outputs.o", put("outputs.o", 9)),
    forward("an output of another call", "outputs.q_bar", put("outputs.q_bar", attention.INLINE)),
    forward("ttl negative", "outputs.resident_ttl_ms", put("outputs.resident_ttl_ms", -1)),
    forward("ttl too long", "outputs.resident_ttl_ms", put("outputs.resident_ttl_ms", 2**62)),
    forward(
        "inline outputs over the limit",
        "outputs",
        both(
            put("q", repeated(1, 1, 60_000, 4)),
            put("k", tensor(1, 1, 3, 4)),
            put("v", tensor(1, 1, 3, 64)),
        ),
    ),
    forward(
        "a resident output over the limit",
        "outputs.o",
        both(
            put("q", repeated(1, 1, 100_000, 4)),
            put("k", tensor(1, 1, 3, 4)),
            put("v", tensor(1, 1, 3, 64)),
            put("outputs.o", attention.RESIDENT),
        ),
    ),
]

DERIVATIVES = [
    vjp("no o_bar", "o_bar", put("o_bar", None)),
    vjp("o_bar of another shape", "o_bar.shape[3]", put("o_bar", tensor(1, 2, 3, 5))),
    vjp(
        "o_bar of another dtype", "o_bar.dtype", put("o_bar", tensor(1, 2, 3, 4, dtype=np.float64))
    ),
    vjp("o without lse", "lse", put("o", tensor(1, 2, 3, 4))),
    vjp("lse without o", "o", put("lse", tensor(1, 2, 3))),
    vjp(
        "lse of another dtype",
        "lse.dtype",
        both(put("o", tensor(1, 2, 3, 4)), put("lse", tensor(1, 2, 3, dtype=np.float64))),
    ),
    vjp(
        "lse of four dimensions",
        "lse.shape",
        both(put("o", tensor(1, 2, 3, 4)), put("lse", tensor(1, 2, 3, 1))),
    ),
    vjp(
        "o of another shape",
        "o.shape[2]",
        both(put("o", tensor(1, 2, 4, 4)), put("lse", tensor(1, 2, 3))),
    ),
    vjp("an output of another call", "outputs.o_dot", put("outputs.o_dot", attention.RESIDENT)),
    jvp("q_dot of another shape", "q_dot.shape[1]", put("q_dot", tensor(1, 1, 3, 4))),
    jvp("k_dot of another dtype", "k_dot.dtype", put("k_dot", tensor(1, 2, 3, 4, dtype=bool))),
    jvp("v_dot without data", "v_dot", put("v_dot.dtype", tensor_pb2.FLOAT32)),
    jvp(
        "v_dot with short strides",
        "v_dot.strides",
        both(put("v_dot", tensor(1, 2, 3, 4)), put("v_dot.strides", [1])),
    ),
    hvp("no o_bar", "o_bar", put("o_bar", None)),
    hvp("o_bar_dot of another shape", "o_bar_dot.shape[0]", put("o_bar_dot", tensor(2, 2, 3, 4))),
    hvp(
        "q_dot of unknown handle",
        None,
        put("q_dot", resident(UNKNOWN)),
        missing=(UNKNOWN,),
        **MISSING,
    ),
]


def benchmark(name: str, field: str | None, **fields: Any) -> Bad:
    request = server_pb2.RunBenchmarkRequest(
        operation=server_pb2.FORWARD,
        dtype=tensor_pb2.FLOAT32,
        batch=1,
        heads_q=1,
        seq_q=4,
        head_dim=4,
        repetitions=1,
    )
    for key, value in fields.items():
        put(key.replace("__", "."), value)(request)
    return Bad(f"benchmark: {name}", f"{SERVER}/RunBenchmark", request, field=field)


BENCHMARKS = [
    benchmark("no operation", "operation", operation=0),
    benchmark("operation unknown", "operation", operation=12),
    benchmark("no dtype", "dtype", dtype=0),
    benchmark("of bools", "q.dtype", dtype=tensor_pb2.BOOL),
    benchmark("batch zero", "batch", batch=0),
    benchmark("seq negative", "seq_q", seq_q=-4),
    benchmark("heads that do not divide", "k.shape[1]", heads_q=4, heads_kv=3),
    benchmark("head_dim too large", "q.shape[3]", head_dim=513),
    benchmark("extents overflow", "q.shape", batch=2**62, seq_q=2**62),
    benchmark("too large together", "batch", seq_q=1 << 19),
    benchmark("too often", "repetitions", repetitions=51),
    benchmark("preset too long", "preset", preset="x" * 65),
    benchmark("scale nan", "options.scale", options__scale=nan),
]


def upload(name: str, field: str | None, parts: list[Any], **more: Any) -> Bad:
    return Bad(f"upload: {name}", f"{TENSOR}/Upload", parts, field=field, **more)


def header(**fields: Any) -> store.UploadRequest:
    return store.UploadRequest(
        header=store.UploadHeader(**{"dtype": tensor_pb2.FLOAT32, "shape": [4], **fields})
    )


def chunk(size: int) -> store.UploadRequest:
    return store.UploadRequest(chunk=b"\1" * size)


UPLOADS = [
    upload("no message", "header", []),
    upload("no header", "header", [chunk(16)]),
    upload("two headers", "header", [header(), header()]),
    upload("an empty message", "part", [header(), store.UploadRequest(), chunk(16)]),
    upload("both parts", "part", [header().SerializeToString() + chunk(16).SerializeToString()]),
    upload("malformed", None, [b"\x0a\x7f\x00"]),
    upload("malformed chunk", None, [header(), b"\x12\x08\x00"]),
    upload("too few bytes", "chunk", [header(), chunk(8)]),
    upload("too many bytes", "chunk", [header(), chunk(8), chunk(9)]),
    upload("no bytes", "chunk", [header()]),
    upload("dtype unspecified", "header.dtype", [header(dtype=0), chunk(16)]),
    upload("extent zero", "header.shape[1]", [header(shape=[2, 0])]),
    upload("extent negative", "header.shape[0]", [header(shape=[-4]), chunk(16)]),
    upload("nine dimensions", "header.shape", [header(shape=[1] * 9), chunk(4)]),
    upload("extents overflow", "header.shape", [header(shape=[2**62, 2**62])]),
    upload("over the limit", "header.shape", [header(shape=[CACHE_BYTES])]),
    upload("ttl negative", "header.ttl_ms", [header(ttl_ms=-1), chunk(16)]),
    upload("ttl too long", "header.ttl_ms", [header(ttl_ms=2**62), chunk(16)]),
    upload("pin too long", "header.pin_ms", [header(pin_ms=61_000), chunk(16)]),
    upload("digest of wrong size", "header.sha256", [header(sha256=b"123"), chunk(16)]),
    upload("another digest", "header.sha256", [header(sha256=b"\7" * 32), chunk(16)]),
]


def on_handle(name: str, request: Any, field: str | None = None, **more: Any) -> Bad:
    method = type(request).__name__.removesuffix("Request")
    return Bad(f"{method.lower()}: {name}", f"{TENSOR}/{method}", request, field=field, **more)


STORE = [
    *(
        on_handle("unknown handle", cls(handle=UNKNOWN), missing=(UNKNOWN,), **MISSING)
        for cls in (
            store.DownloadRequest,
            store.StatRequest,
            store.RenewRequest,
            store.PinRequest,
            store.UnpinRequest,
            store.DeleteRequest,
        )
    ),
    on_handle("no handle", store.StatRequest(), missing=("",), **MISSING),
    on_handle("a long handle", store.StatRequest(handle="h" * 100_000), **MISSING),
    on_handle("ttl negative", store.RenewRequest(handle=HANDLE_K, ttl_ms=-1), "ttl_ms"),
    on_handle("ttl too long", store.RenewRequest(handle=HANDLE_K, ttl_ms=2**62), "ttl_ms"),
    on_handle("pin negative", store.PinRequest(handle=HANDLE_K, pin_ms=-1), "pin_ms"),
    on_handle("pin too long", store.PinRequest(handle=HANDLE_K, pin_ms=61_000), "pin_ms"),
    on_handle("page size negative", store.ListRequest(page_size=-1), "page_size"),
    on_handle("no page token", store.ListRequest(page_token="?"), "page_token"),
]

BASE = attend(attention.ForwardRequest(), None)
LARGE = attend(attention.ForwardRequest(), put("q.data", b"\0" * (MAX_MESSAGE_BYTES + 1)))
SLOW = attend(
    attention.VjpRequest(),
    both(
        # 2^36 pairs of query and key, which no machine computes in time.
        *(put(n, repeated(1, 1, 1 << 18, 1)) for n in ("q", "k", "v", "o_bar")),
        *(put(f"outputs.{n}_bar", attention.SKIP) for n in "kv"),
    ),
)
TRANSPORT = [
    Bad("message over the limit", f"{ATTENTION}/Forward", LARGE, "RESOURCE_EXHAUSTED"),
    upload(
        "chunk over the limit",
        None,
        [header(), chunk(MAX_MESSAGE_BYTES + 1)],
        code="RESOURCE_EXHAUSTED",
    ),
    Bad("deadline in the computation", f"{ATTENTION}/Vjp", SLOW, "DEADLINE_EXCEEDED", timeout=0.1),
    Bad("deadline at once", f"{ATTENTION}/Vjp", SLOW, "DEADLINE_EXCEEDED", timeout=1e-6),
    Bad("unknown method", f"{ATTENTION}/Third", BASE, "UNIMPLEMENTED"),
    Bad("unknown service", "/theria.v1.NoService/Forward", BASE, "UNIMPLEMENTED"),
]

REQUESTS = [
    *MALFORMED_FORWARD,
    *MALFORMED_ELSEWHERE,
    *TENSORS,
    *HANDLES,
    *OPTIONS,
    *DERIVATIVES,
    *BENCHMARKS,
    *UPLOADS,
    *STORE,
    *TRANSPORT,
]
