"""Clients and processes: a connection belongs to the process that created it."""

from __future__ import annotations

import os
from typing import NoReturn

from typing_extensions import Self

__all__ = ["OfOneProcess"]


class OfOneProcess:
    """Base of objects that cannot move to another process. A copy is the object itself."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def _is_of_this_process(self) -> bool:
        """Whether this process created the object, and not its parent before a fork."""
        return self._process == os.getpid()

    def _check_process(self) -> None:
        """Checks the process before gRPC is called, which would hang in a forked child.

        Raises:
            RuntimeError: Another process created the object.
        """
        if not self._is_of_this_process:
            raise RuntimeError("this client was made before a fork; connect in the child process")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a client cannot be pickled, for it holds a connection: pass the target to the other "
            "process and connect there, on first use or as it starts (initializer of a pool, "
            "worker_init_fn of a DataLoader)"
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self
