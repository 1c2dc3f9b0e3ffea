"""One call site of attention: its options, its client, and the way to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from theria._argument_names import ArgumentNames
from theria._default_client import AttentionClient, chosen_client
from theria._local_client import LocalClient
from theria._operations import OPERATIONS, output_layout
from theria._options import OPTION_TENSORS, CallOptions
from theria._status import error_from_status
from theria.jax._custom_call import available, custom_call, validate
from theria.jax._partitioning import partitioned

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
        "options.softcap": "softcap",
        "options.alibi_slopes": "alibi_slopes",
        "options.causal_alignment": "causal_alignment",
        "options.kv_lengths": "key_value_seq_lengths",
        "options.deterministic": "deterministic",
        "options.implementation": "implementation",
        "options.precision": "precision",
    },
    axes=(-4, -2, -3, -1),  # [batch, seq, heads, head_dim]
)


@dataclass(frozen=True, eq=False)
class Site:
    """What the forward and all its derivatives share. Equal sites share compiled code.

    Attributes:
        client: Who computes; None for the default at the time of the computation.
        options: All but the tensors and the dropout's seed, which are arrays of their own.
        tensors: Names of those that there are: of tensors among the options, ``"mask"`` first, and
            last ``"seed"``, uint32 [2].
    """

    client: AttentionClient | None
    options: CallOptions
    tensors: tuple[str, ...]

    def _key(self) -> tuple[object, ...]:
        return id(self.client), tuple(sorted(self.options.items())), self.tensors

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def with_client(self) -> Site:
        """This site with the client that is the default now, if it has none."""
        return replace(self, client=chosen_client(self.client))

    def is_in_place(self, platform: str) -> bool:
        """Whether XLA itself calls the kernels, on arrays of `platform`: ``"cpu"``, ``"cuda"``.

        Otherwise the client is called from the host.
        """
        client = chosen_client(self.client)
        return (
            isinstance(client, LocalClient)
            and client.reads_in_place(platform)
            and available(platform)
        )

    def call(
        self,
        operation: str,
        names: Sequence[str],
        outputs: Sequence[str],
        operands: Sequence[jax.Array],
    ) -> list[jax.Array]:
        """Puts a call of the kernels into the computation that is being traced.

        Args:
            operation: As in `run`.
            names: Of the operands.
            outputs: Names of the symbol table.
            operands: Tracers, in the order of `names`.

        Raises:
            theria.InvalidArgument: Which names arguments of `dot_product_attention`.
        """
        client = chosen_client(self.client)
        assert isinstance(client, LocalClient)
        with _NAMES.in_errors():
            validate(operation, names, operands, self.options)

        def compute(*parts: jax.Array) -> list[jax.Array]:
            layouts = {
                "bias" if name == "mask" else name: (x.shape, x.dtype)
                for name, x in zip(names, parts, strict=True)
            }
            results = [output_layout(name, layouts) for name in outputs]
            return custom_call(
                operation, names, outputs, self.options, client.threads, parts, results
            )

        return list(partitioned(compute, names, outputs, operands)(*operands))

    @contextmanager
    def errors_of_xla(self) -> Iterator[None]:
        """A custom call's errors that reach Python at once become those of the client."""
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            code, _, message = str(error).partition(": ")
            with _NAMES.in_errors():
                raise error_from_status(code, message, None) from error

    def run(
        self, operation: str, outputs: Sequence[str], operands: Mapping[str, jax.Array]
    ) -> tuple[np.ndarray[Any, Any], ...]:
        """Calls `operation` of the client and returns `outputs`.

        Args:
            operation: ``"forward"``, ``"vjp"``, ``"jvp"`` or ``"hvp"``.
            outputs: Names of the symbol table.
            operands: By their names: of the operation's arguments, and of `tensors`. An absent
                cotangent or tangent is zero.

        Raises:
            theria.Error: The client's, which names arguments of `dot_product_attention`.
        """
        arrays = {name: np.asarray(operand) for name, operand in operands.items()}
        options: dict[str, Any] = dict(self.options)
        options["outputs"] = {
            name: "inline" if name in outputs else "skip" for name in OPERATIONS[operation].outputs
        }
        for keyword, name in OPTION_TENSORS.items():
            if name in arrays:
                options[keyword] = arrays.pop(name)
        if "seed" in arrays:
            high, low = map(int, arrays.pop("seed"))
            options["dropout_seed"] = high << 32 | low
        client = chosen_client(self.client)
        with _NAMES.in_errors():
            result = getattr(client, operation)(**arrays, **options)
        return tuple(np.asarray(getattr(result, name)) for name in outputs)
