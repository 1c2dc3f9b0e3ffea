"""`patch`: PyTorch's own attention function replaced for a while, for modules that are not ours.

`torch.nn.functional.scaled_dot_product_attention` is one object under two names. While any context
is open, both names lead to a dispatcher, which asks the calling context whether it is in one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, TypeAlias

import torch
from torch.jit._builtins import _get_builtin_table, _register_builtin

from theria._client_registry import client_name
from theria._default_client import AttentionClient, chosen_client
from theria._options import Implementation, Precision
from theria.torch._sdpa import sdpa

__all__ = ["patch"]

Sdpa: TypeAlias = Callable[..., torch.Tensor]

_OWNERS: tuple[Any, ...] = (torch.nn.functional, torch._C._nn)
_NAME = "scaled_dot_product_attention"

_innermost: ContextVar[Sdpa | None] = ContextVar("theria_sdpa", default=None)
_lock = threading.Lock()
_open: list[Sdpa] = []  # of all threads, in the order of entry
_before: tuple[list[Sdpa], bool] | None = None  # what stood under the names, and the fast path


@contextmanager
def patch(
    *,
    client: AttentionClient | None = None,
    implementation: Implementation = "auto",
    precision: Precision = "strict",
) -> Iterator[None]:
    """Within it, `torch.nn.functional.scaled_dot_product_attention` is `theria.torch.sdpa`.

    Modules that look the function up when they run differentiate twice and exactly without a
    change: `torch.nn.MultiheadAttention`, `torch.nn.TransformerEncoderLayer`, the models of
    Hugging Face transformers with `attn_implementation="sdpa"`. The fused inference path of
    PyTorch's own modules, which has no derivative, is off meanwhile, in the whole process.

        with theria.torch.patch(client=client):
            loss = model(x).sum()
            (first,) = torch.autograd.grad(loss, x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)

    Only what is called inside counts: derivatives of that may be taken outside, but
    `torch.utils.checkpoint` calls the model again in the backward, which then has to be inside too.
    Not reached are names bound earlier (`from torch.nn.functional import
    scaled_dot_product_attention`) and code that writes attention out, as `MultiheadAttention` does
    where `need_weights=True`, and what `torch.jit.script` compiles, which keeps PyTorch's function.
    Code of `torch.compile` is compiled again where a context opens or closes; inside, it follows
    the context opened last, whichever thread opened it.

    Contexts nest, the innermost counts. A context belongs to the thread, or asyncio task, that
    opened it; the threads in which autograd runs the backward of other devices, which no Python
    code started, follow the context opened last. On leaving, by an error too, all is as before.

    Args:
        client: Default: that of `theria.torch.default_client()` on entry.
        implementation: As for `sdpa`.
        precision: As for `sdpa`.

    Raises:
        NoClientError: On entry, if there is no client.
    """
    client = chosen_client(client)
    client_name(client)  # torch.compile finds the name and cannot give one
    ours = partial(
        sdpa,
        client=client,
        implementation=implementation,
        precision=precision,
    )
    _install(ours)
    token = _innermost.set(ours)
    try:
        yield
    finally:
        _remove(ours)
        _innermost.reset(token)


def _install(ours: Sdpa) -> None:
    global _before
    with _lock:
        if not _open:
            originals = [getattr(owner, _NAME) for owner in _OWNERS]
            _before = originals, torch.backends.mha.get_fastpath_enabled()
            for owner, original in zip(_OWNERS, originals, strict=True):
                dispatcher = _dispatcher(original)
                _register_builtin(dispatcher, f"aten::{_NAME}")
                setattr(owner, _NAME, dispatcher)
            torch.backends.mha.set_fastpath_enabled(False)
        _open.append(ours)


def _remove(ours: Sdpa) -> None:
    global _before
    with _lock:
        _open.remove(ours)
        if not _open:
            assert _before is not None
            originals, fastpath = _before
            for owner, original in zip(_OWNERS, originals, strict=True):
                _get_builtin_table().pop(id(getattr(owner, _NAME)), None)
                setattr(owner, _NAME, original)
            torch.backends.mha.set_fastpath_enabled(fastpath)
            _before = None


def _dispatcher(original: Sdpa) -> Sdpa:
    @wraps(original)
    def scaled_dot_product_attention(*args: Any, **kwargs: Any) -> torch.Tensor:
        current = _current()
        return original(*args, **kwargs) if current is None else current(*args, **kwargs)

    return scaled_dot_product_attention


def _current() -> Sdpa | None:
    if torch.compiler.is_compiling():  # no thread and no context is known to the compiler
        return _open[-1] if _open else None
    if isinstance(threading.current_thread(), threading._DummyThread):
        with _lock:
            return _innermost.get() or (_open[-1] if _open else None)
    return _innermost.get()
