"""One call site of attention: its options and its client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from theria._argument_names import ArgumentNames
from theria._default_client import AttentionClient
from theria._operations import OPERATIONS
from theria._options import CallOptions

__all__ = ["Call"]

_NAMES = ArgumentNames(
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


@dataclass(frozen=True, eq=False)
class Call:
    """The options that the forward and all its derivatives share, and who computes them.

    Attributes:
        client: Who computes.
        options: All but the mask and the dropout's seed, which are tensors of their own.
        outputs: What the HVP returns; the others return all they have.
    """

    client: AttentionClient
    options: CallOptions
    outputs: tuple[str, ...] = ()

    def returning(self, *outputs: str) -> Call:
        """This call site, with the outputs of its HVP chosen."""
        return replace(self, outputs=outputs)

    def run(
        self,
        operation: str,
        outputs: Sequence[str],
        mask: torch.Tensor | None,
        seed: torch.Tensor | None,
        tensors: Sequence[torch.Tensor | None],
        o: torch.Tensor | None = None,
        lse: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Calls `operation` of the client and returns `outputs`, on the device of the inputs.

        Args:
            operation: ``"forward"``, ``"vjp"``, ``"jvp"`` or ``"hvp"``.
            outputs: Names of the symbol table.
            mask: bool or floating point, broadcasts to [batch, heads_q, seq_q, seq_kv], or None.
            seed: int64 [], the dropout's seed, or None without dropout.
            tensors: The operation's positional arguments, q first; an absent tangent is None.
            o: What the forward of the same q, k and v gave.
            lse: The same.

        Raises:
            theria.Error: The client's, which names arguments of `sdpa`.
        """
        options: dict[str, Any] = dict(self.options)
        options["outputs"] = {
            name: "inline" if name in outputs else "skip" for name in OPERATIONS[operation].outputs
        }
        if mask is not None:
            options["attn_mask"] = self._readable(mask)
        if seed is not None:
            options["dropout_seed"] = int(seed) & 0xFFFFFFFFFFFFFFFF
        if o is not None:
            options.update(o=self._readable(o), lse=self._readable(lse))
        with _NAMES.in_errors(0 if mask is None else mask.dim()):
            result = getattr(self.client, operation)(*map(self._readable, tensors), **options)
        query = tensors[0]
        assert query is not None
        return tuple(getattr(result, name).to(query.device) for name in outputs)

    def _readable(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """The elements, where the client can read them."""
        if tensor is None:
            return None
        tensor = tensor.detach()
        computes_on = getattr(self.client, "computes_on", None)
        if computes_on is not None and computes_on(tensor.device.type):
            return tensor
        return tensor.cpu()
