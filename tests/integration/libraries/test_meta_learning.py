"""The MAML loops of the libraries that people use, unchanged: their meta-gradients through `patch`.

Each loop is written as its library's documentation has it; nothing in it knows of Theria.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import higher
import pytest
import torch
import torchopt
from few_shot import (
    ADAM_EPS,
    INNER_RATE,
    INNER_STEPS,
    Classifier,
    Compare,
    Gradients,
    make_task,
)
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, partial(torch.optim.Adam, eps=ADAM_EPS)], ids=["sgd", "adam"]
)
def test_higher(optimizer: Callable[..., torch.optim.Optimizer], compare: Compare) -> None:
    def gradients(dtype: torch.dtype) -> Gradients:
        model, task = Classifier(dtype), make_task(dtype)
        inner = optimizer(model.parameters(), lr=INNER_RATE)
        with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (fast, step):
            for _ in range(INNER_STEPS):
                step.step(cross_entropy(fast(task.x), task.y))
            cross_entropy(fast(task.x_query), task.y_query).backward()
        return [parameter.grad for parameter in model.parameters()]  # type: ignore[misc]

    compare(gradients)


@pytest.mark.parametrize("algorithm", ["MAML", "MetaSGD"])
@pytest.mark.filterwarnings("ignore")  # of the library's own dependencies
def test_learn2learn(algorithm: str, compare: Compare) -> None:
    import learn2learn  # warns on import

    def gradients(dtype: torch.dtype) -> Gradients:
        task = make_task(dtype)
        maml = getattr(learn2learn.algorithms, algorithm)(Classifier(dtype), lr=INNER_RATE)
        learner = maml.clone()
        for _ in range(INNER_STEPS):
            learner.adapt(cross_entropy(learner(task.x), task.y))
        cross_entropy(learner(task.x_query), task.y_query).backward()
        return [parameter.grad for parameter in maml.parameters()]

    compare(gradients)


@pytest.mark.parametrize(
    "make",
    [torchopt.MetaSGD, partial(torchopt.MetaAdam, eps=ADAM_EPS, eps_root=1e-8)],
    ids=["sgd", "adam"],
)
def test_torchopt(make: Callable[..., Any], compare: Compare) -> None:
    def gradients(dtype: torch.dtype) -> Gradients:
        model, task = Classifier(dtype), make_task(dtype)
        initial = list(model.parameters())
        inner = make(model, lr=INNER_RATE)
        for _ in range(INNER_STEPS):
            inner.step(cross_entropy(model(task.x), task.y))
        loss = cross_entropy(model(task.x_query), task.y_query)
        return list(torch.autograd.grad(loss, initial))

    compare(gradients)


def test_torchopt_functional(compare: Compare) -> None:
    def gradients(dtype: torch.dtype) -> Gradients:
        model, task = Classifier(dtype), make_task(dtype)
        initial = dict(model.named_parameters())
        optimizer = torchopt.adam(lr=INNER_RATE, eps=ADAM_EPS, eps_root=1e-8)
        params, state = initial, optimizer.init(initial)
        for _ in range(INNER_STEPS):
            loss = cross_entropy(functional_call(model, params, task.x), task.y)
            step = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            updates, state = optimizer.update(
                dict(zip(params, step, strict=True)), state, params=params, inplace=False
            )
            params = torchopt.apply_updates(params, updates, inplace=False)
        loss = cross_entropy(functional_call(model, params, task.x_query), task.y_query)
        return list(torch.autograd.grad(loss, list(initial.values())))

    compare(gradients)


def test_torchopt_implicit(compare: Compare) -> None:
    """iMAML: conjugate gradients on Hessian-vector products at the inner optimum."""

    def gradients(dtype: torch.dtype) -> Gradients:
        model, task = Classifier(dtype), make_task(dtype)
        names = [name for name, _ in model.named_parameters()]

        def inner_loss(params: Any, meta: Any) -> torch.Tensor:
            loss = cross_entropy(
                functional_call(model, dict(zip(names, params, strict=True)), task.x), task.y
            )
            proximity = [((p - m) ** 2).sum() for p, m in zip(params, meta, strict=True)]
            return loss + 2.0 * torch.stack(proximity).sum()

        @torchopt.diff.implicit.custom_root(
            grad(inner_loss, argnums=0),
            argnums=1,
            solve=torchopt.linear_solve.solve_cg(maxiter=8, atol=0.0),
        )
        @torch.enable_grad()
        def solve(params: Any, meta: Any) -> Any:
            for _ in range(INNER_STEPS):
                step = torch.autograd.grad(inner_loss(params, meta), params)
                params = tuple(
                    (p - INNER_RATE * g).detach().requires_grad_()
                    for p, g in zip(params, step, strict=True)
                )
            return params

        meta = tuple(model.parameters())
        adapted = solve(tuple(p.detach().clone().requires_grad_() for p in meta), meta)
        named = dict(zip(names, adapted, strict=True))
        loss = cross_entropy(functional_call(model, named, task.x_query), task.y_query)
        return list(torch.autograd.grad(loss, meta))

    compare(gradients)


def test_torch_func(compare: Compare) -> None:
    """`grad` of an inner `grad`, `vmap` over the tasks."""

    def gradients(dtype: torch.dtype) -> Gradients:
        model = Classifier(dtype)
        tasks = [make_task(dtype, seed) for seed in range(4)]
        batch = [torch.stack(x) for x in zip(*(vars(t).values() for t in tasks), strict=True)]

        def loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return cross_entropy(functional_call(model, params, x), y)

        def adapted_loss(params: Any, x: Any, y: Any, x_query: Any, y_query: Any) -> Any:
            for _ in range(INNER_STEPS):
                step = grad(loss)(params, x, y)
                params = {name: p - INNER_RATE * step[name] for name, p in params.items()}
            return loss(params, x_query, y_query)

        params = {name: p.detach() for name, p in model.named_parameters()}
        in_dims = (None, 0, 0, 0, 0)
        each = vmap(grad(adapted_loss), in_dims)(params, *batch)
        return list(each.values())

    compare(gradients)
