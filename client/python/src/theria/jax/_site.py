"""One call site of attention: its options, its client, and the way to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from theria._argument_names import ArgumentNames
from theria._default_client import AttentionClient, chosen_client
from theria._operations import OPERATIONS
from theria._options import CallOptions

__all__ = ["Site"]

_NAMES = ArgumentNames(
    {
        "q": "query",
        "k": "key",
        "v": "value",
        "options.mask": "mask",
        "options.is_causal": "is_causal",
        "options.scale": "scale",
        "options.window": "local_window_size",
        "options.dropout.probability": "dropout_rate",
        "options.dropout.seed": "dropout_key",
        "options.implementation": "implementation",
        "options.precision": "precision",
    },
    axes=(-4, -2, -3, -1),  # [batch, seq, heads, head_dim]
)


@dataclass(frozen=True, eq=False)
class Site:
    """What the forward and all its derivatives share.

    Attributes:
        client: Who computes; None for the default at the time of the computation.
        options: All but the mask and the dropout's seed, which are arrays of their own.
        constants: Which of ``"mask"`` and ``"seed"`` there are, in this order. seed: uint32 [2].
    """

    client: AttentionClient | None
    options: CallOptions
    constants: tuple[str, ...]

    @property
    def random(self) -> bool:
        """Whether there is dropout."""
        return "seed" in self.constants

    def run(
        self, operation: str, outputs: Sequence[str], operands: Mapping[str, jax.Array]
    ) -> tuple[np.ndarray[Any, Any], ...]:
        """Calls `operation` of the client and returns `outputs`.

        Args:
            operation: ``"forward"``, ``"vjp"``, ``"jvp"`` or ``"hvp"``.
            outputs: Names of the symbol table.
            operands: By the names of the operation's arguments, beside ``"mask"`` and ``"seed"``;
                an absent tangent is zero.

        Raises:
            theria.Error: The client's, which names arguments of `dot_product_attention`.
        """
        arrays = {name: np.asarray(operand) for name, operand in operands.items()}
        options: dict[str, Any] = dict(self.options)
        options["outputs"] = {
            name: "inline" if name in outputs else "skip" for name in OPERATIONS[operation].outputs
        }
        if "mask" in arrays:
            options["attn_mask"] = arrays.pop("mask")
        if "seed" in arrays:
            high, low = map(int, arrays.pop("seed"))
            options["dropout_seed"] = high << 32 | low
        client = chosen_client(self.client)
        with _NAMES.in_errors():
            result = getattr(client, operation)(**arrays, **options)
        return tuple(np.asarray(getattr(result, name)) for name in outputs)
