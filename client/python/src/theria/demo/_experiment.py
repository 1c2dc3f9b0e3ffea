"""Compares the MAML modes on the synthetic task, with all attention computed by the server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch.nn.functional import cross_entropy

from theria.demo._counting_client import Cost, CountingClient
from theria.maml import (
    InnerLoop,
    Loss,
    MetaGradient,
    Mode,
    OuterStep,
    diagnose,
    from_module,
    meta_gradient,
    meta_train,
    rel_diff,
)
from theria.maml.tasks import (
    Attention,
    AttentionClassifier,
    TaskSpec,
    initial_parameters,
    make_task,
    math_attention,
)
from theria.torch import sdpa

__all__ = ["MODES", "RATES", "STEPS", "ModeRow", "Training", "compare_modes", "meta_training"]

SPEC = TaskSpec()
STEPS = (1, 5, 10, 20)
RATES = (0.1, 0.4)
MODES: tuple[Mode, ...] = get_args(Mode)
TRAINING_STEPS, TRAINING_TASKS, TRAINING_RATE = 12, 4, 0.5
TRAINING_INNER = InnerLoop(5, 0.4)


@dataclass(frozen=True)
class ModeRow:
    """One mode on one task.

    Attributes:
        loss_before: L_query(theta_0).
        loss_after: L_query(theta_K).
        gradient_norm: Of the mode's meta-gradient.
        rel_diff: |g_full - g_fo| / |g_full| of the task; the same for all modes.
        error: Relative error, compared with the derivative of the unrolled loop in float64, in this
            process and without the server.
        second_order_path: See `theria.maml.Diagnostics`.
        probe_norm: The same.
        calls: Calls to the server for the meta-gradient.
        seconds: Seconds for the meta-gradient.
        call_seconds: The part of `seconds` spent in calls.
        compute_seconds: The part of `seconds` spent in computations on the server.
    """

    seed: int
    inner_lr: float
    inner_steps: int
    mode: Mode
    loss_before: float
    loss_after: float
    gradient_norm: float
    rel_diff: float
    error: float
    second_order_path: bool
    probe_norm: float
    calls: int
    seconds: float
    call_seconds: float
    compute_seconds: float


@dataclass(frozen=True)
class Training:
    """Meta-training on a fixed meta-batch with one mode."""

    mode: Mode
    steps: tuple[OuterStep, ...]
    cost: Cost
    seconds: float


def compare_modes(client: CountingClient, seeds: Sequence[int], console: Console) -> list[ModeRow]:
    """Every mode, learning rate and number of inner steps, on one task per seed."""
    _compare(client, 0, InnerLoop(1))  # untimed: PyTorch loads parts of itself on first use
    with _progress(console) as progress:
        bar = progress.add_task("comparing modes", total=len(seeds) * len(RATES) * len(STEPS))
        rows = []
        for seed in seeds:
            for rate in RATES:
                for steps in STEPS:
                    rows += _compare(client, seed, InnerLoop(steps, rate))
                    progress.advance(bar)
    return rows


def meta_training(client: CountingClient, console: Console) -> list[Training]:
    """Gradient descent of the initial parameters on `TRAINING_TASKS` tasks, by mode."""
    loss = _loss(_remote(client))
    tasks = [make_task(SPEC, 0, index) for index in range(TRAINING_TASKS)]
    runs = []
    with _progress(console) as progress:
        bar = progress.add_task("meta-training", total=len(MODES) * TRAINING_STEPS)
        for mode in MODES:
            client.take_cost()
            began = time.perf_counter()
            _, history = meta_train(
                loss,
                initial_parameters(SPEC),
                [tasks] * TRAINING_STEPS,
                TRAINING_INNER,
                mode=mode,
                make_optimizer=lambda tensors: torch.optim.SGD(tensors, lr=TRAINING_RATE),
                on_step=lambda _: progress.advance(bar),
                progress=False,
            )
            seconds = time.perf_counter() - began
            runs.append(Training(mode, tuple(history), client.take_cost(), seconds))
    return runs


def _compare(client: CountingClient, seed: int, inner: InnerLoop) -> list[ModeRow]:
    params, task = initial_parameters(SPEC, seed), make_task(SPEC, seed)
    remote, local = _loss(_remote(client)), _loss(math_attention)
    before = float(remote(params, task.query).detach())
    rows = []
    for mode in MODES:
        client.take_cost()
        began = time.perf_counter()
        result = meta_gradient(remote, params, task, inner, mode=mode)
        seconds, cost = time.perf_counter() - began, client.take_cost()
        expected = meta_gradient(local, params, task, inner, mode=mode, method="unrolled")
        diagnostics = diagnose(remote, params, task, inner, mode=mode)
        rows.append(
            ModeRow(
                seed=seed,
                inner_lr=inner.learning_rate,
                inner_steps=inner.steps,
                mode=mode,
                loss_before=before,
                loss_after=float(result.loss),
                gradient_norm=_norm(result),
                rel_diff=diagnostics.rel_diff,
                error=rel_diff(expected.gradient, result.gradient),
                second_order_path=diagnostics.second_order_path,
                probe_norm=diagnostics.probe_norm,
                calls=cost.calls,
                seconds=seconds,
                call_seconds=cost.seconds,
                compute_seconds=cost.compute_seconds,
            )
        )
    return rows


def _norm(result: MetaGradient) -> float:
    return float(torch.cat([g.ravel() for g in result.gradient.values()]).norm())


def _remote(client: CountingClient) -> Attention:
    return lambda q, k, v: sdpa(q, k, v, client=client)


def _loss(attention: Attention) -> Loss:
    return from_module(AttentionClassifier(SPEC, 0, attention), cross_entropy)[0]


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
