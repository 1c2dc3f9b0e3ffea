"""One call of a client by an operator."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch

from theria._argument_names import ArgumentNames
from theria._client_registry import named_client
from theria._default_client import AttentionClient
from theria._local_options import packed_options
from theria._operations import OPERATIONS
from theria._options import CallOptions, Implementation, Precision

__all__ = ["ARGUMENT_NAMES", "Options", "run"]

ARGUMENT_NAMES = ArgumentNames(
    {
        "q": "query",
        "k": "key",
        "v": "value",
        "options.mask": "attn_mask",
        "options.is_causal": "is_causal",
        "options.scale": "scale",
        "options.window": "window",
        "options.dropout.probability": "dropout_p",
        "options.dropout.seed": "dropout_seed",
        "options.dropout.offset": "dropout_offset",
        "options.implementation": "implementation",
        "options.precision": "precision",
    }
)
_UINT64 = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Options:
    """The operators' plain arguments, which the forward and all its derivatives share.

    Attributes:
        scale: None for the server's default.
        is_causal: Key j takes part in row i only if j <= i.
        window_left: None for an unbounded side.
        window_right: As `window_left`.
        dropout_p: Probability of dropping a weight.
        dropout_offset: 64 bits, as a signed number.
        implementation: See `CallOptions`.
        precision: See `CallOptions`.
        client: Its name in the registry.
    """

    scale: float | None = None
    is_causal: bool = False
    window_left: int | None = None
    window_right: int | None = None
    dropout_p: float = 0.0
    dropout_offset: int = 0
    implementation: str = "auto"
    precision: str = "strict"
    client: str = ""

    @functools.cached_property
    def packed(self) -> bytes:
        """As the kernels' library takes them, without dropout's seed."""
        return packed_options(self.of_call())

    def packed_with(self, seed: int) -> bytes:
        """`packed`, with a seed of 64 bits."""
        return packed_options({**self.of_call(), "dropout_seed": seed})

    def of_operator(self, client: str) -> dict[str, Any]:
        """Those of an operator that calls the client of that name."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"client": client}

    def of_call(self) -> CallOptions:
        """Those of a client's method."""
        options = CallOptions(
            is_causal=self.is_causal,
            scale=self.scale,
            implementation=cast(Implementation, self.implementation),
            precision=cast(Precision, self.precision),
        )
        if self.window_left is not None or self.window_right is not None:
            options["window"] = self.window_left, self.window_right
        if self.dropout_p > 0.0:
            options["dropout_p"] = self.dropout_p
            options["dropout_offset"] = self.dropout_offset & _UINT64
        return options


def run(
    operation: str,
    outputs: Sequence[str],
    tensors: Sequence[torch.Tensor | None],
    saved: tuple[torch.Tensor | None, torch.Tensor | None],
    mask: torch.Tensor | None,
    seed: torch.Tensor | None,
    options: Options,
) -> tuple[torch.Tensor, ...]:
    """Calls `operation` of the client and returns `outputs`, on the device of the inputs.

    Args:
        operation: ``"forward"``, ``"vjp"``, ``"jvp"`` or ``"hvp"``.
        outputs: Names of the symbol table.
        tensors: The operation's positional arguments, q first; an absent tangent is None.
        saved: o and lse of the forward of the same q, k and v; None where there are none.
        mask: bool or floating point, broadcasts to [batch, heads_q, seq_q, seq_kv], or None.
        seed: int64 [], the dropout's seed, or None without dropout.
        options: The others.

    Raises:
        theria.Error: The client's, which names arguments of `sdpa`.
    """
    client = named_client(options.client)
    keywords: dict[str, Any] = dict(options.of_call())
    keywords["outputs"] = {
        name: "inline" if name in outputs else "skip" for name in OPERATIONS[operation].outputs
    }
    if mask is not None:
        keywords["attn_mask"] = _readable(client, mask)
    if seed is not None:
        keywords["dropout_seed"] = int(seed) & _UINT64
    if saved[0] is not None:
        keywords.update(o=_readable(client, saved[0]), lse=_readable(client, saved[1]))
    arguments = [_readable(client, tensor) for tensor in tensors]
    with ARGUMENT_NAMES.in_errors(0 if mask is None else mask.dim()):
        result = getattr(client, operation)(*arguments, **keywords)
    query = tensors[0]
    assert query is not None
    return tuple(getattr(result, name).to(query.device) for name in outputs)


def _readable(client: AttentionClient, tensor: torch.Tensor | None) -> torch.Tensor | None:
    """The elements, where the client can read them."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    computes_on = getattr(client, "computes_on", None)
    if computes_on is not None and computes_on(tensor.device.type):
        return tensor
    return tensor.cpu()
