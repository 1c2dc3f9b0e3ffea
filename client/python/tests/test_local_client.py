"""The client that computes in this process: values, arrays where they are, errors, the store."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import time
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import theria
from theria import InvalidArgument, ResidentTensor, TensorMissing
from theria._kernels_library import kernels_library
from theria._local_client import LocalClient
from theria._local_options import packed_options


@pytest.fixture
def local() -> theria.Client:
    return theria.local("cpu", threads=1)


def described(client: theria.Client, *arrays: Any, attn_mask: Any = None) -> dict[str, Any]:
    """Name -> (address, dtype, shape, strides) of what the library is given."""
    assert isinstance(client, LocalClient)
    runner = client.runner_for(arrays[0])[1]
    assert runner is not None
    names = kernels_library().binding.INPUTS
    inputs = dict(zip(names, arrays, strict=False)) | {"options.mask": attn_mask}
    found = runner.describe(tuple(map(inputs.get, names)), packed_options({}))
    return dict(zip(names, found, strict=True))


def draw(rng: np.random.Generator, dtype: Any = np.float64, count: int = 3) -> list[Any]:
    return [rng.standard_normal((2, 2, 5, 4)).astype(dtype) for _ in range(count)]


def explicit(q: Any, k: Any, v: Any, is_causal: bool = False) -> torch.Tensor:
    q, k, v = (torch.as_tensor(np.asarray(x, np.float64)) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_forward_is_attention(local: theria.Client, rng: np.random.Generator, dtype: Any) -> None:
    q, k, v = draw(rng, dtype)
    r = local.forward(q, k, v, is_causal=True)
    assert isinstance(r, theria.ForwardResult)
    assert r.o.dtype == dtype
    assert r.lse.dtype == (np.float64 if dtype == np.float64 else np.float32)
    expected = explicit(q, k, v, is_causal=True).numpy()
    eps = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(r.o.astype(np.float64), expected, rtol=eps * 4, atol=eps)
    assert r.execution.implementation == "reference"
    assert r.execution.device == "cpu"
    assert r.execution.compute_seconds > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_torch_in_torch_out(local: theria.Client, dtype: torch.dtype) -> None:
    q, k, v, o_bar = (torch.randn(1, 2, 5, 4, dtype=torch.float64).to(dtype) for _ in range(4))
    r = local.vjp(q, k, v, o_bar, outputs={"lse": "inline"})
    primals = [x.double().requires_grad_() for x in (q, k, v)]
    o = torch.nn.functional.scaled_dot_product_attention(*primals)
    for name, expected in zip(
        ("q_bar", "k_bar", "v_bar"), torch.autograd.grad(o, primals, o_bar.double()), strict=True
    ):
        actual = getattr(r, name)
        assert isinstance(actual, torch.Tensor)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected.to(dtype))
    assert r.o is None
    assert r.lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_jax_arrays(local: theria.Client, rng: np.random.Generator) -> None:
    jnp = pytest.importorskip("jax.numpy")
    q, k, v = draw(rng, np.float32)
    expected = local.forward(q, k, v).o
    r = local.forward(*(jnp.asarray(x) for x in (q, k, v)))
    np.testing.assert_array_equal(r.o, expected)


def test_arrays_are_read_where_they_are(local: theria.Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng)
    mask = torch.ones(5, 5, dtype=torch.bool).tril().t()
    k_view = torch.from_numpy(k).transpose(0, 1)
    found = described(local, q.swapaxes(0, 1), k_view, v[..., ::2], attn_mask=mask)
    assert found["q"] == (q.ctypes.data, 0, (2, 2, 5, 4), (20, 40, 4, 1))
    assert found["k"] == (k.ctypes.data, 0, (2, 2, 5, 4), (20, 40, 4, 1))
    assert found["v"] == (v.ctypes.data, 0, (2, 2, 5, 2), (40, 20, 4, 2))
    assert found["options.mask"] == (mask.data_ptr(), 4, (5, 5), (1, 5))
    assert found["o"] is None


@pytest.mark.parametrize("code", range(4))
def test_dtypes_are_described(local: theria.Client, code: int) -> None:
    shape, strides = (1, 2, 3, 4), (24, 12, 4, 1)
    numpy_dtypes: list[Any] = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
    torch_dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    array = np.zeros(shape, numpy_dtypes[code])
    tensor = torch.nn.Parameter(torch.zeros(shape, dtype=torch_dtypes[code]))
    for value, address in ((array, array.ctypes.data), (tensor, tensor.data_ptr())):
        with torch.no_grad():
            found = described(local, value, value, value)
        assert found["v"] == (address, code, shape, strides)


def test_jax_arrays_are_read_where_they_are(local: theria.Client) -> None:
    jnp = pytest.importorskip("jax.numpy")
    q = jnp.ones((1, 1, 3, 4), jnp.bfloat16)
    assert described(local, q, q, q)["q"][0] == q.unsafe_buffer_pointer()


def test_an_older_torch_is_described() -> None:
    # Before 2.10, tensors have no exchange interface: `_readable` gives their addresses.
    code = (
        "import torch\n"
        "del torch.Tensor.__dlpack_c_exchange_api__\n"
        "import theria\n"
        "from theria.torch import sdpa\n"
        "client = theria.local('cpu', threads=1)\n"
        "q, k, v = torch.randn(3, 1, 2, 5, 4, dtype=torch.bfloat16)\n"
        "exact = torch.nn.functional.scaled_dot_product_attention\n"
        "expected = exact(q.double(), k.double(), v.double()).bfloat16()\n"
        "r = client.forward(q, k, v)\n"
        "assert r.o.dtype == torch.bfloat16 and r.lse.dtype == torch.float32\n"
        "torch.testing.assert_close(r.o, expected)\n"
        "torch.testing.assert_close(sdpa(q, k, v, client=client), expected)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_unusual_strides(local: theria.Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng)
    expected = local.forward(q, k, v).o
    views = [
        np.ascontiguousarray(q[:, :, ::-1])[:, :, ::-1],
        k.astype(">f8"),
        torch.imag(
            torch.complex(torch.zeros(v.shape, dtype=torch.float64), -torch.from_numpy(v)).conj()
        ),
    ]
    assert views[2].is_neg()
    np.testing.assert_array_equal(local.forward(*views).o, expected)
    one = np.broadcast_to(q[:1, :1], q.shape)
    np.testing.assert_array_equal(local.forward(one, k, v).o, local.forward(one.copy(), k, v).o)


def test_results_are_new_writable_arrays(local: theria.Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng)
    first, second = local.forward(q, k, v), local.forward(q, k, v)
    first.o[:] = 0
    assert second.o.any()
    assert first.o.flags.c_contiguous


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"implementation": "magic"}, "options.implementation"),
        ({"precision": "sloppy"}, "options.precision"),
        ({"outputs": {"q_bar": "inline"}}, "outputs"),
        ({"outputs": {"o": "elsewhere"}}, "outputs.o"),
        ({"window": [1, 2, 3]}, "options.window"),
        ({"window": (-1, None)}, "options.window.left"),
        ({"scale": "large"}, "options.scale"),
        ({"scale": float("inf")}, "options.scale"),
        ({"dropout_p": 1.0}, "options.dropout.probability"),
        ({"dropout_p": 0.5, "dropout_seed": -1}, "options.dropout.seed"),
        ({"timeout": "5s"}, "timeout"),
        ({"resident_ttl": "5s", "outputs": {"o": "resident"}}, "resident_ttl"),
        ({"attn_mask": np.arange(3)}, "options.mask.dtype"),
        ({"attn_mask": np.ones((3, 3), bool)}, "options.mask.shape[0]"),
        ({"attn_mask": np.ones((1, 1, 1, 5, 5), bool)}, "options.mask.shape"),
    ],
)
def test_wrong_options_name_their_field(
    local: theria.Client, rng: np.random.Generator, options: Any, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        local.forward(*draw(rng), **options)
    assert caught.value.field == field


def test_wrong_tensors_name_their_field(local: theria.Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng)
    for arguments, field in (
        ((q, k[..., :3], v), "k.shape[3]"),
        ((q[0], k, v), "q.shape"),
        ((q[None], k, v), "q.shape"),
        ((q, k.astype(np.float32), v), "k.dtype"),
        ((q.astype(int), k, v), "q.dtype"),
        ((torch.ones(1, 1, 1, 1, dtype=torch.int32), k, v), "q.dtype"),
        ((None, k, v), "q"),
        (([[1.0], [1.0, 2.0]], k, v), "q"),
        ((torch.from_numpy(q).requires_grad_(), k, v), "q"),
        ((torch.ones(1, 1, 1, 1, device="meta"), k, v), "q"),
        ((torch.from_numpy(q), k, torch.from_numpy(v).to_sparse()), "v"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            local.forward(*arguments)  # type: ignore[arg-type]
        assert caught.value.field == field, str(caught.value)
    with pytest.raises(theria.Unimplemented, match="fused"):
        local.forward(q, k, v, implementation="fused")
    with pytest.raises(TypeError, match=r"vjp\(\) got an unexpected keyword argument 'causal'"):
        local.vjp(q, k, v, v, causal=True)  # type: ignore[call-arg]


def test_the_wider_interface_is_bound(local: theria.Client, rng: np.random.Generator) -> None:
    assert isinstance(local, LocalClient)
    binding = kernels_library().binding
    runner = local.runner_for(np.zeros(1))[1]
    assert runner is not None
    q, k, v, o_bar = draw(rng, count=4)
    named: dict[str, Any] = {"q": q, "k": k, "v": v, "o_bar": o_bar}
    outputs = tuple(map(binding.OUTPUTS.index, ("q_bar", "bias_bar")))

    def field(options: dict[str, Any], **arrays: Any) -> str:
        tensors = named | {f"options.{name}": array for name, array in arrays.items()}
        inputs = tuple(map(tensors.get, binding.INPUTS))
        with pytest.raises(InvalidArgument) as caught:
            runner.run(1, inputs, outputs, binding.pack_options(**options), 0.0)
        return caught.value.field

    assert field({"softcap": -1.0}) == "options.softcap"
    assert field({"causal_alignment": 7}) == "options.causal_alignment"
    assert field({}).startswith("outputs.bias_bar"), "there is no mask"
    lengths = np.ones(3, np.int32)
    assert field({}, kv_lengths=lengths).startswith("options.kv_lengths.shape")
    assert field({}, alibi_slopes=lengths) == "options.alibi_slopes.dtype"


def test_a_timeout_ends_a_computation(local: theria.Client) -> None:
    x = np.ones((1, 8, 1024, 64))
    start = time.monotonic()
    with pytest.raises(theria.DeadlineExceeded):
        local.hvp(x, x, x, x, x, x, x, timeout=0.05)
    assert time.monotonic() - start < 30
    with pytest.raises(theria.DeadlineExceeded):
        local.forward(x, x, x, timeout=0.0)


class TestStore:
    def test_a_resident_tensor_serves_as_an_array(
        self, local: theria.Client, rng: np.random.Generator
    ) -> None:
        q, k, v = draw(rng)
        expected = local.forward(q, k, v).o
        resident = local.put(k)
        k[:] = 0  # the tensor keeps what it was
        np.testing.assert_array_equal(local.forward(q, resident, v).o, expected)
        again = local.get(resident)
        again[:] = 0
        assert local.get(resident.handle).any()
        assert local.attach(resident.handle).shape == k.shape
        local.delete(resident)
        with pytest.raises(TensorMissing) as caught:
            local.forward(q, resident, v)
        assert caught.value.handles == (resident.handle,)

    def test_outputs_stay_resident(self, local: theria.Client) -> None:
        q = torch.randn(1, 1, 3, 4, dtype=torch.bfloat16)
        r = local.forward(q, q, q, outputs={"o": "resident", "lse": "skip"})
        assert isinstance(r.o, ResidentTensor)
        assert r.lse is None
        assert isinstance(local.get(r.o), torch.Tensor)
        assert isinstance(local.vjp(r.o, q, q, q).q_bar, torch.Tensor)

    def test_leases_and_pins(self, local: theria.Client) -> None:
        tensor = local.put(np.ones(3), ttl=0.02, content_address=True)
        info = local.pin(tensor, 60)
        assert info.pinned_for > 50
        assert info.sha256 is not None
        assert info.device == "host"
        assert len(local.list()) == 1
        time.sleep(0.03)
        assert local.stat(tensor).size_bytes == 24, "pinned"
        local.unpin(tensor)
        assert local.list() == ()
        with pytest.raises(TensorMissing):
            local.renew(tensor)
        kept = local.put(np.ones(3), ttl=60)
        assert 10 < local.renew(kept, 20).expires_in <= 20

    def test_shares_no_memory(self, local: theria.Client) -> None:
        with pytest.raises(theria.Unimplemented):
            local.share(8)


def test_describes_itself(local: theria.Client) -> None:
    info = local.info()
    assert info.backend == "cpu"
    assert info.devices[0].memory_bytes > 0
    assert ("hvp", "reference", "bfloat16") in {
        (k.operation, k.implementation, k.dtype) for k in info.kernels
    }
    assert local.health() == "serving"
    assert local.health("no.such.Service") == "service_unknown"
    r = local.benchmark("hvp", batch=1, heads_q=2, seq_q=16, head_dim=8, repetitions=3)
    assert len(r.seconds) == 3
    assert r.flops == 21 * 2 * 2 * 16 * 16 * 8
    with pytest.raises(InvalidArgument) as caught:
        local.benchmark("vjp", batch=0, heads_q=2, seq_q=16, head_dim=8)
    assert caught.value.field == "batch"


def test_is_a_client_like_any(local: theria.Client, rng: np.random.Generator) -> None:
    assert isinstance(local, theria.Client)
    assert type(local).hvp.__doc__ == theria.Client.hvp.__doc__
    assert copy.deepcopy(local) is local
    q, k, v = draw(rng)
    with pickle.loads(pickle.dumps(local)) as twin:
        np.testing.assert_array_equal(twin.forward(q, k, v).o, local.forward(q, k, v).o)
    assert repr(local) == "theria.local('cpu')"


def test_says_where_it_computes(client: theria.Client, local: theria.Client) -> None:
    assert theria.local().computes_on("cuda")
    for each in (client, local):
        assert each.computes_on("cpu")
        assert not each.computes_on("cuda")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cpu:1", None, 0])
def test_refuses_what_is_no_device(device: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        theria.local(device)
    assert caught.value.field == "device"


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(theria.Unavailable):
        theria.local("cuda:999")


def test_many_threads(local: theria.Client, rng: np.random.Generator) -> None:
    inputs = [draw(rng) for _ in range(4)]
    expected = [local.forward(*x).o for x in inputs]
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for _ in range(50):
                np.testing.assert_array_equal(local.forward(*inputs[index]).o, expected[index])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


FORKS = """
import os, sys
import numpy as np
import theria

client = theria.local("cpu", threads=4)
x = np.random.default_rng(0).standard_normal((1, 4, 256, 32))
expected = client.forward(x, x, x).o
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(client.forward(x, x, x).o, expected) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_computes() -> None:
    # In a process of its own: this one may have threads that a fork does not survive.
    subprocess.run([sys.executable, "-c", FORKS], check=True, timeout=120)


@pytest.mark.parametrize("path", ["", "/no/such/library.so"])
def test_without_the_library(path: str) -> None:
    code = (
        "import sys, theria\n"
        "sys.modules['theria_kernels'] = None\n"
        "import importlib.util\n"
        "importlib.util.find_spec = lambda name: None\n"
        "try: theria.local()\n"
        "except theria.Unavailable as error: print(error)"
    )
    environment = {"THERIA_KERNELS_LIBRARY": path, "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ("cannot be loaded" if path else "pip install 'theria[local]'") in result.stdout


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_arrays_that_are_copied_come_back_in_their_framework(
    framework: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = theria.local("cpu")
    assert isinstance(client, LocalClient)
    in_place = client.runner_for
    # As for host arrays on a client of a GPU.
    monkeypatch.setattr(client, "runner_for", lambda q: (in_place(q)[0], None))
    q, k, v = draw(rng)
    expected = explicit(q, k, v)
    if framework == "numpy":
        result: Any = client.forward(q, k, v).o
        assert type(result) is np.ndarray
    else:
        result = client.forward(*map(torch.from_numpy, (q, k, v))).o
        assert type(result) is torch.Tensor
    np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-12)
