"""A local client and a server's say the same: values to the bit, errors to the letter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import theria


@pytest.fixture(scope="module")
def local() -> theria.Client:
    return theria.local("cpu")


def qkv() -> list[Any]:
    rng = np.random.default_rng(8)
    return [rng.standard_normal((1, 2, 5, 4)).astype(np.float32) for _ in range(3)]


Q, K, V = qkv()
# name -> method, arguments, options
WRONG: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "head_dim": ("forward", (Q, K[..., :3], V), {}),
    "dtype of k": ("forward", (Q, K.astype(np.float64), V), {}),
    "dtype of q": ("forward", (Q.astype(bool), K, V), {}),
    "rank": ("forward", (Q[0], K, V), {}),
    "heads": ("forward", (Q, np.ones((1, 3, 5, 4), np.float32), V), {}),
    "length of v": ("vjp", (Q, K, V[:, :, :2], Q), {}),
    "o_bar": ("vjp", (Q, K, V, V[..., :1]), {}),
    "no cotangent": ("vjp", (Q, K, V, None), {}),
    "o without lse": ("jvp", (Q, K, V, Q), {"o": Q}),
    "tangent": ("hvp", (Q, K, V, Q, Q[:, :1]), {}),
    "integers": ("forward", (Q.astype(np.int32), K, V), {}),
    "no array": ("forward", ([[1.0], [1.0, 2.0]], K, V), {}),
    "None": ("forward", (Q, None, V), {}),
    "gradient": ("forward", (torch.from_numpy(Q).requires_grad_(), K, V), {}),
    "scale": ("forward", (Q, K, V), {"scale": float("nan")}),
    "no number as scale": ("forward", (Q, K, V), {"scale": "1"}),
    "window": ("forward", (Q, K, V), {"window": (-3, None)}),
    "sides of the window": ("forward", (Q, K, V), {"window": (1,)}),
    "dropout": ("forward", (Q, K, V), {"dropout_p": 1.5}),
    "seed": ("forward", (Q, K, V), {"dropout_p": 0.5, "dropout_seed": 2**64}),
    "mask": ("forward", (Q, K, V), {"attn_mask": np.ones((4, 5), bool)}),
    "dtype of the mask": ("forward", (Q, K, V), {"attn_mask": np.ones((5, 5), np.int8)}),
    "soft cap": ("forward", (Q, K, V), {"softcap": -1.0}),
    "soft cap of 0": ("forward", (Q, K, V), {"softcap": 0.0}),
    "alignment": ("forward", (Q, K, V), {"causal_alignment": "centre"}),
    "slopes": ("forward", (Q, K, V), {"alibi_slopes": np.ones(3, np.float32)}),
    "dtype of slopes": ("forward", (Q, K, V), {"alibi_slopes": np.ones(2, bool)}),
    "key lengths": ("forward", (Q, K, V), {"kv_lengths": [6]}),
    "number of key lengths": ("forward", (Q, K, V), {"kv_lengths": [5, 5]}),
    "dtype of key lengths": ("forward", (Q, K, V), {"kv_lengths": np.ones(1, np.float32)}),
    "key lengths that int32 cannot hold": ("forward", (Q, K, V), {"kv_lengths": [2**40]}),
    "one side of documents": ("forward", (Q, K, V), {"cu_seqlens_q": [0, 5]}),
    "documents' begin": (
        "forward",
        (Q, K, V),
        {"cu_seqlens_q": [0, 5], "cu_seqlens_kv": [1, 5]},
    ),
    "documents' order": (
        "forward",
        (Q, K, V),
        {"cu_seqlens_q": [0, 4, 3, 5], "cu_seqlens_kv": [0, 1, 2, 5]},
    ),
    "documents' end": ("forward", (Q, K, V), {"cu_seqlens_q": [0, 5], "cu_seqlens_kv": [0, 4]}),
    "documents and lengths": (
        "forward",
        (Q, K, V),
        {"cu_seqlens_q": [0, 5], "cu_seqlens_kv": [0, 5], "kv_lengths": [5]},
    ),
    "no mask to differentiate": ("vjp", (Q, K, V, Q), {"outputs": {"bias_bar": "inline"}}),
    "tangent of no mask": ("jvp", (Q, K, V), {"bias_dot": np.ones((5, 5), np.float32)}),
    "tangent of the mask": (
        "jvp",
        (Q, K, V),
        {"bias_dot": np.ones((5, 5), np.float32), "attn_mask": np.ones((1, 5), np.float32)},
    ),
    "lse_bar": ("vjp", (Q, K, V, Q), {"lse_bar": np.ones((1, 2, 4), np.float32)}),
    "implementation": ("forward", (Q, K, V), {"implementation": "fastest"}),
    "no kernel": ("forward", (Q, K, V), {"implementation": "unfused"}),
    "precision": ("forward", (Q, K, V), {"precision": "double"}),
    "outputs": ("forward", (Q, K, V), {"outputs": {"o_dot": "inline"}}),
    "timeout": ("forward", (Q, K, V), {"timeout": "soon"}),
    "unknown option": ("forward", (Q, K, V), {"causal": True}),
    "handle": ("stat", ("no-such-handle",), {}),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_same_errors(client: theria.Client, local: theria.Client, name: str) -> None:
    method, arguments, options = WRONG[name]
    raised = []
    for each in (client, local):
        with pytest.raises((theria.Error, TypeError)) as caught:
            getattr(each, method)(*arguments, **options)
        error = caught.value
        raised.append((type(error), str(error), getattr(error, "field", None)))
    assert raised[0] == raised[1]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_the_same_bits(client: theria.Client, local: theria.Client, dtype: Any) -> None:
    q, k, v = (x.astype(dtype) for x in qkv())
    options: dict[str, Any] = {"is_causal": True, "dropout_p": 0.3, "dropout_seed": 5}
    theirs = client.hvp(q, k, v, q, q, k, v, k, **options)
    ours = local.hvp(q, k, v, q, q, k, v, k, **options)
    for name in ("q_bar", "k_bar", "v_bar", "q_bar_dot", "k_bar_dot", "v_bar_dot"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
