"""The arguments that a framework's user wrote, in errors about the request that is made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from theria._errors import InvalidArgument

__all__ = ["ArgumentNames"]

_MASK = "options.mask"


@dataclass(frozen=True)
class ArgumentNames:
    """Of one framework's function.

    Attributes:
        names: Path of a field of the request -> the argument.
        axes: Where the user finds the axes of q, k and v, [batch, heads, seq, head_dim], counted
            from the end: leading dimensions may have been added or flattened.
    """

    names: Mapping[str, str]
    axes: tuple[int, int, int, int] = (-4, -3, -2, -1)

    @contextmanager
    def in_errors(self, mask_rank: int = 4) -> Iterator[None]:
        """Errors of the client and the server name arguments: ``k.shape[3]`` is ``key.shape[-1]``.

        Args:
            mask_rank: Dimensions of the mask that is sent.
        """
        try:
            yield
        except InvalidArgument as error:
            raise error.renamed(lambda text: self._renamed(text, mask_rank)) from error

    def _renamed(self, text: str, mask_rank: int) -> str:
        def argument(found: re.Match[str]) -> str:
            field, axis = found.groups()
            if axis is None:
                return self.names[field]
            place = int(axis) - mask_rank if field == _MASK else self.axes[int(axis)]
            return f"{self.names[field]}.shape[{place}]"

        # Not within other names (q_dot, outputs.lse), nor in what the user wrote, which is quoted.
        fields = "|".join(map(re.escape, self.names))
        return re.sub(rf"(?<![\w.'\"])({fields})(?!\w)(?:\.shape\[(\d)\])?", argument, text)
