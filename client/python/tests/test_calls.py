"""What the four calls send, and what they make of the answers."""

from __future__ import annotations

import copy
import os
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from fake_server import AsyncFakeServer, FakeServer

import theria
from theria import Client, InvalidArgument, ResidentTensor
from theria._remote_client import RemoteClient
from theria.v1 import attention_pb2


def qkv(rng: np.random.Generator, dtype: Any = np.float64) -> list[Any]:
    shapes = [(2, 2, 5, 4), (2, 2, 7, 4), (2, 2, 7, 3)]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def softmax_attention(q: Any, k: Any, v: Any) -> Any:
    p = np.exp(q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]))
    return p / p.sum(-1, keepdims=True) @ v


def test_forward_is_attention(client: Client, rng: np.random.Generator) -> None:
    q, k, v = qkv(rng)
    r = client.forward(q, k, v)
    np.testing.assert_allclose(r.o, softmax_attention(q, k, v))
    assert r.lse.shape == (2, 2, 5)
    assert r.execution.request_id == "r1"
    assert r.execution.implementation == "reference"


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_answers_in_the_framework_and_dtype_of_q(
    client: Client, rng: np.random.Generator, dtype: Any
) -> None:
    q, k, v = qkv(rng, dtype)
    assert client.forward(q, k, v).o.dtype == dtype
    tensors = [theria._arrays.to_framework(x, "torch") for x in (q, k, v)]
    o = client.forward(*tensors).o
    assert isinstance(o, torch.Tensor)
    assert o.dtype == tensors[0].dtype
    resident = client.put(tensors[0])
    assert isinstance(client.forward(resident, k, v).o, torch.Tensor)
    assert isinstance(client.forward(q, tensors[1], v).o, np.ndarray)


def test_options_reach_the_fields_of_the_contract(
    client: Client, server: FakeServer, rng: np.random.Generator
) -> None:
    q, k, v = qkv(rng)
    client.forward(
        q,
        k,
        v,
        attn_mask=np.ones((5, 7), bool),
        dropout_p=0.25,
        dropout_seed=2**64 - 1,
        dropout_offset=9,
        is_causal=True,
        window=(3, None),
        scale=0.0,
        implementation="unfused",
        precision="fast",
        outputs={"lse": "skip"},
        resident_ttl=2.5,
        timeout=7.0,
    )
    request = server.last("Forward")
    options = request.options
    assert tuple(options.mask.shape) == (5, 7)
    assert (options.dropout.probability, options.dropout.offset) == (0.25, 9)
    assert options.dropout.seed == 2**64 - 1
    assert options.is_causal
    assert options.window.left == 3
    assert not options.window.HasField("right")
    assert options.HasField("scale")
    assert options.scale == 0.0
    assert options.implementation == attention_pb2.UNFUSED
    assert options.precision == attention_pb2.FAST
    assert request.outputs.lse == attention_pb2.SKIP
    assert request.outputs.o == attention_pb2.INLINE
    assert request.outputs.resident_ttl_ms == 2500
    timeout = server.timeouts[-1]
    assert timeout is not None
    assert 6.0 < timeout <= 7.0


def test_defaults_are_the_contracts(
    client: Client, server: FakeServer, rng: np.random.Generator
) -> None:
    q, k, v = qkv(rng)
    client.forward(q, k, v, window=None, attn_mask=None)
    options = server.last("Forward").options
    assert not options.HasField("scale")
    assert not options.HasField("window")
    assert not options.HasField("mask")
    assert options.dropout.probability == 0.0
    assert options.precision == attention_pb2.STRICT
    assert options.implementation == attention_pb2.AUTO
    assert server.timeouts[-1] is None


def test_operands_go_into_their_own_fields(
    client: Client, server: FakeServer, rng: np.random.Generator
) -> None:
    q, k, v = qkv(rng)
    o = rng.standard_normal((2, 2, 5, 3))
    lse = rng.standard_normal((2, 2, 5))
    names = ("q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot")
    values = dict(
        zip(names, (q, k, v, o + 1, q + 2, k + 3, v + 4, o + 5), strict=True), o=o, lse=lse
    )
    r = client.hvp(**values)
    request = server.last("Hvp")
    for name, value in values.items():
        np.testing.assert_array_equal(server.array(getattr(request, name)), value)
    assert r.q_bar.shape == q.shape
    assert r.o is r.lse is r.o_dot is r.lse_dot is None

    client.jvp(q, k, v, None, k + 1)
    request = server.last("Jvp")
    assert not request.HasField("q_dot")
    assert request.HasField("k_dot")
    assert not request.HasField("o")


def test_outputs_stay_resident_or_are_skipped_as_asked(
    client: Client, server: FakeServer, rng: np.random.Generator
) -> None:
    q, k, v = (torch.from_numpy(x) for x in qkv(rng))
    r = client.forward(q, k, v, outputs={"o": "resident", "lse": "skip"})
    assert isinstance(r.o, ResidentTensor)
    assert r.o.shape == (2, 2, 5, 3)
    assert r.lse is None
    assert isinstance(client.get(r.o), torch.Tensor)
    client.vjp(q, k, v, r.o)
    assert server.last("Vjp").o_bar.handle == r.o.handle


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"implementation": "magic"}, "options.implementation"),
        ({"precision": "sloppy"}, "options.precision"),
        ({"outputs": {"q_bar": "inline"}}, "outputs"),
        ({"outputs": {"o": "elsewhere"}}, "outputs.o"),
        ({"window": (1, 2, 3)}, "options.window"),
        ({"window": (0.5, None)}, "options.window"),
        ({"window": 3}, "options.window"),
        ({"scale": "large"}, "options.scale"),
        ({"dropout_p": "half"}, "options.dropout.probability"),
        ({"timeout": "5s"}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"resident_ttl": "5s"}, "resident_ttl"),
        ({"dropout_p": 0.5, "dropout_seed": -1}, "options.dropout.seed"),
        ({"dropout_p": 0.5, "dropout_offset": 2**64}, "options.dropout.offset"),
        ({"resident_ttl": -1.0}, "resident_ttl"),
        ({"attn_mask": np.arange(3)}, "options.mask.dtype"),
    ],
)
def test_misuse_names_the_field_and_sends_nothing(
    client: Client, server: FakeServer, rng: np.random.Generator, options: Any, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.forward(*qkv(rng), **options)
    assert caught.value.field == field
    assert isinstance(caught.value, ValueError)
    assert server.requests == []


def test_unknown_keywords_are_type_errors(client: Client, rng: np.random.Generator) -> None:
    q, k, v = qkv(rng)
    with pytest.raises(TypeError, match=r"vjp\(\) got an unexpected keyword argument 'causal'"):
        client.vjp(q, k, v, v, causal=True)  # type: ignore[call-arg]
    with pytest.raises(InvalidArgument, match="k is None"):
        client.forward(q, None, v)  # type: ignore[arg-type]


class TestLargeTensors:
    """With a server that takes 5 MB a message."""

    LIMIT = 5_000_000

    @pytest.fixture
    def server(self) -> FakeServer:
        return FakeServer(self.LIMIT)

    def test_inputs_go_up_first_and_nothing_stays(self, client: Client, server: FakeServer) -> None:
        q = np.ones((1, 1, 2, 300_000))  # 4.8 MB each
        r = client.forward(q, q, q[..., :3])
        np.testing.assert_allclose(r.o, np.ones((1, 1, 2, 3)))
        assert server.names().count("Upload") == 1  # then the rest fits
        assert server.tensors == {}

    def test_outputs_come_down_after_and_nothing_stays(
        self, client: Client, server: FakeServer
    ) -> None:
        q, k = np.zeros((1, 1, 5000, 2)), np.zeros((1, 1, 3, 2))
        v = np.arange(600.0).reshape(1, 1, 3, 200)
        r = client.forward(torch.from_numpy(q), k, v)  # o: 8 MB
        assert isinstance(r.o, torch.Tensor)
        np.testing.assert_allclose(r.o.numpy(), np.broadcast_to(v.mean(2), (1, 1, 5000, 200)))
        assert server.last("Forward").outputs.o == attention_pb2.RESIDENT
        assert server.last("Forward").outputs.lse == attention_pb2.INLINE
        assert server.tensors == {}

    def test_limits_are_asked_for_once_and_only_if_needed(
        self, client: Client, server: FakeServer
    ) -> None:
        small, large = np.ones((1, 1, 2, 4)), np.ones((1, 1, 2, 300_000))
        client.forward(small, small, small)
        assert "GetServerInfo" not in server.names()
        client.forward(large, large, small)
        client.forward(large, large, small)
        assert server.names().count("GetServerInfo") == 1

    def test_a_broadcast_view_is_small(self, client: Client, server: FakeServer) -> None:
        q = np.broadcast_to(np.ones((1, 1, 1, 4)), (1, 1, 100_000, 4))
        client.forward(q, q[:, :, :1], q[:, :, :1], outputs={"o": "skip", "lse": "skip"})
        assert server.names() == ["Forward"]

    def test_a_failed_call_leaves_nothing(self, client: Client, server: FakeServer) -> None:
        q = np.ones((1, 1, 2, 300_000))
        server.faults.append(
            lambda name: theria.ResourceExhausted("full") if name == "Forward" else None
        )
        with pytest.raises(theria.ResourceExhausted):
            client.forward(q, q, q)
        assert server.tensors == {}

    @pytest.mark.parametrize("name", ["k", "options.mask"])
    def test_an_error_about_an_upload_names_the_argument(
        self, name: str, client: Client, server: FakeServer
    ) -> None:
        q, large = np.ones((1, 1, 1, 4)), np.ones((1, 1, 300_000, 4))
        mask = np.ones((1, 1, 200, 5000)) if name == "options.mask" else None

        def refuse(called: str) -> theria.InvalidArgument | None:
            message = "has 2400000 elements, more than the store holds"
            violation = theria.FieldViolation("header.shape", message)
            refusal = theria.InvalidArgument(f"header.shape: {message}", violations=(violation,))
            return refusal if called == "Upload" else None

        server.faults.append(refuse)
        with pytest.raises(theria.InvalidArgument) as error:
            client.forward(q, q if mask is not None else large, q, attn_mask=mask)
        assert error.value.field == f"{name}.shape"
        assert error.value.message.startswith(f"{name}.shape: has 2400000")
        with pytest.raises(theria.InvalidArgument) as error:
            client.put(large)
        assert error.value.field == "tensor.shape"

    def test_an_upload_lost_before_its_use_is_repeated(
        self, client: Client, server: FakeServer
    ) -> None:
        q = np.ones((1, 1, 2, 300_000))

        def restart(name: str) -> None:
            if name == "Forward" and server.names().count("Forward") == 0:
                server.lose_all()

        server.faults.append(restart)
        r = client.forward(q, q, q[..., :3])
        np.testing.assert_allclose(r.o, np.ones((1, 1, 2, 3)))
        assert server.tensors == {}


def test_a_forked_child_is_told_to_connect_itself(
    client: Client, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="fork"), client:
        client.info()
    assert not server.closed, "the connection is the parent's"


def test_a_client_is_not_pickled_but_shared(server: FakeServer) -> None:
    blocking, asynchronous = RemoteClient(server), theria.aio.Client(AsyncFakeServer(server))
    for each in (blocking, asynchronous):
        with pytest.raises(TypeError, match="pass the target to the other process"):
            pickle.dumps([each])
        assert copy.copy(each) is copy.deepcopy(each) is each


def test_a_pickled_resident_tensor_names_the_same_without_its_source(
    client: Client, server: FakeServer
) -> None:
    array = np.arange(6.0).reshape(2, 3).astype(ml_dtypes.bfloat16)
    tensor = client.put(array)
    twin = pickle.loads(pickle.dumps(tensor))
    assert repr(twin) == repr(tensor)
    np.testing.assert_array_equal(RemoteClient(server).get(twin), array)
    assert copy.deepcopy([tensor])[0] is copy.copy(tensor) is tensor
    server.lose_all()
    with pytest.raises(theria.TensorMissing):
        client.get(twin)
    np.testing.assert_array_equal(client.get(tensor), array)


def test_a_context_manager_closes(server: FakeServer) -> None:
    with RemoteClient(server) as client:
        client.info()
        assert not server.closed
    assert server.closed
