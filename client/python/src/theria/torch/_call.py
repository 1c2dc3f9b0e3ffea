"""One call of a client by an operator."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch

from theria._argument_names import ArgumentNames
from theria._client_registry import named_client
from theria._default_client import AttentionClient
from theria._local_options import packed_options
from theria._operations import OPERATIONS
from theria._options import (
    OPTION_TENSORS,
    PLAIN_OPTIONS,
    Alignment,
    CallOptions,
    Implementation,
    Precision,
)

__all__ = ["ARGUMENT_NAMES", "Options", "run"]

ARGUMENT_NAMES = ArgumentNames(
    {
        "q": "query",
        "k": "key",
        "v": "value",
        "options.dropout.probability": "dropout_p",
        "options.dropout.seed": "dropout_seed",
        "options.dropout.offset": "dropout_offset",
        **{f"options.{option.name}": option.name for option in PLAIN_OPTIONS},
        **{f"options.{name}": keyword for keyword, name in OPTION_TENSORS.items()},
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
        softcap: See `CallOptions`.
        causal_alignment: See `CallOptions`.
        deterministic: See `CallOptions`.
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
    softcap: float | None = None
    causal_alignment: str = "upper_left"
    deterministic: bool = False
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
        if self.softcap is not None:
            options["softcap"] = self.softcap
        if self.causal_alignment != "upper_left":
            options["causal_alignment"] = cast(Alignment, self.causal_alignment)
        if self.deterministic:
            options["deterministic"] = True
        if self.window_left is not None or self.window_right is not None:
            options["window"] = self.window_left, self.window_right
        if self.dropout_p > 0.0:
            options["dropout_p"] = self.dropout_p
            options["dropout_offset"] = self.dropout_offset & _UINT64
        return options


def run(
    operation: str,
    outputs: Sequence[str],
    tensors: Mapping[str, torch.Tensor | None],
    options: Options,
) -> tuple[torch.Tensor, ...]:
    """Calls `operation` of the client and returns `outputs`, on the device of the inputs.

    Args:
        operation: ``"forward"``, ``"vjp"``, ``"jvp"`` or ``"hvp"``.
        outputs: Names of the symbol table.
        tensors: The arguments of the operator, by name; None for an absent one.
        options: The others.

    Raises:
        theria.Error: The client's, which names arguments of `sdpa`.
    """
    client = named_client(options.client)
    keywords: dict[str, Any] = dict(options.of_call())
    keywords["outputs"] = {
        name: "inline" if name in outputs else "skip" for name in OPERATIONS[operation].outputs
    }
    arguments = dict(tensors)
    if (seed := arguments.pop("seed", None)) is not None:
        keywords["dropout_seed"] = int(seed) & _UINT64
    mask = arguments.pop("mask", None)
    arguments["attn_mask"] = mask
    keywords.update({name: _readable(client, x) for name, x in arguments.items() if x is not None})
    with ARGUMENT_NAMES.in_errors(0 if mask is None else mask.dim()):
        result = getattr(client, operation)(**keywords)
    query = tensors["q"]
    assert query is not None
    return tuple(getattr(result, name).to(query.device) for name in outputs)


def _readable(client: AttentionClient, tensor: torch.Tensor) -> torch.Tensor:
    """The elements, where the client can read them."""
    tensor = tensor.detach()
    computes_on = getattr(client, "computes_on", None)
    if computes_on is not None and computes_on(tensor.device.type):
        return tensor
    return tensor.cpu()
