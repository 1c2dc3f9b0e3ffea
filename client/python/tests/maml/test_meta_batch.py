"""Meta-batches, truncated and implicit meta-gradients: closed forms and the unrolled loop."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch.nn.functional import cross_entropy

from theria.maml import (
    ConjugateGradients,
    InnerLoop,
    Loss,
    Method,
    Mode,
    Params,
    Task,
    from_module,
    implicit_meta_gradient,
    meta_batch_gradient,
    meta_gradient,
    meta_train,
    rel_diff,
)
from theria.maml.tasks import AttentionClassifier, TaskSpec, make_task, math_attention

Tensor = torch.Tensor
SMALL = TaskSpec(support=4, query=3, length=6, d_model=5, classes=3, signal_positions=2)
INNER = InnerLoop(3, 0.2)


def classifier() -> tuple[Loss, Params]:
    return from_module(AttentionClassifier(SMALL, 0, math_attention), cross_entropy)


def some_tasks(number: int) -> list[Task[Any]]:
    return [make_task(SMALL, index=index) for index in range(number)]


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_meta_batch_is_the_mean_of_its_tasks(mode: Mode, method: Method, vectorize: bool) -> None:
    loss, params = classifier()
    tasks = some_tasks(3)
    each = [meta_gradient(loss, params, task, INNER, mode=mode) for task in tasks]
    mean = {n: torch.stack([r.gradient[n] for r in each]).mean(0) for n in params}
    done: list[int] = []
    batch = meta_batch_gradient(
        loss,
        params,
        tasks,
        INNER,
        mode=mode,
        method=method,
        vectorize=vectorize,
        on_tasks=done.append,
    )
    assert rel_diff(mean, batch.gradient) < 1e-12
    torch.testing.assert_close(batch.loss, torch.stack([r.loss for r in each]).mean())
    assert done == ([3] if vectorize else [1, 1, 1])


def test_vectorized_tasks_go_through_layer_norm() -> None:
    """PyTorch's own forward mode over a batched backward loses the derivative of its weight."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 6), torch.nn.LayerNorm(6), torch.nn.Tanh(), torch.nn.Linear(6, 2)
    ).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    loss, params = from_module(module, cross_entropy)

    def batch() -> tuple[Tensor, Tensor]:
        return torch.randn(5, 3).double(), torch.randint(2, (5,))

    tasks = [Task(batch(), batch()) for _ in range(3)]
    expected = meta_batch_gradient(loss, params, tasks, INNER, method="unrolled").gradient
    actual = meta_batch_gradient(loss, params, tasks, INNER, vectorize=True).gradient
    assert rel_diff(expected, actual) < 1e-12


def test_vectorized_tasks_draw_dropout_each() -> None:
    def loss(params: Params, batch: Tensor) -> Tensor:
        return torch.nn.functional.dropout(params["a"] * batch, 0.5).sum()

    params, batch = {"a": torch.ones(64)}, torch.ones(64)
    together = meta_batch_gradient(
        loss, params, [Task(batch, batch)] * 8, InnerLoop(0), vectorize=True
    )
    assert len(together.gradient["a"].unique()) > 2, "not all tasks drop the same elements"


@pytest.mark.parametrize("vectorize", [False, True])
def test_meta_training_by_either_way(vectorize: bool) -> None:
    loss, params = classifier()
    batches = [some_tasks(2)] * 3
    expected, _ = meta_train(loss, params, batches, INNER, progress=False)
    actual, history = meta_train(loss, params, batches, INNER, vectorize=vectorize, progress=False)
    assert rel_diff(expected, actual) < 1e-9
    assert len(history) == 3


def test_first_order_steps_before_exact_ones() -> None:
    loss, params = classifier()
    batches = [some_tasks(2)] * 4

    def train(**options: Any) -> tuple[Params, list[float]]:
        trained, history = meta_train(loss, params, batches, INNER, progress=False, **options)
        return trained, [step.gradient_norm for step in history]

    _, full = train(mode="full")
    _, first_order = train(mode="fo")
    asked: list[int] = []

    def schedule(step: int) -> Mode:
        asked.append(step)
        return "fo" if step < 2 else "full"

    trained, switched = train(mode=schedule)
    assert set(asked) == {0, 1, 2, 3}
    assert switched[:2] == first_order[:2]
    assert switched[0] != full[0]
    half, _ = meta_train(loss, params, batches[:2], INNER, mode="fo", progress=False)
    gradient = meta_batch_gradient(loss, half, batches[2], INNER).gradient
    assert switched[2] == pytest.approx(
        float(torch.cat([g.ravel() for g in gradient.values()]).norm())
    )
    assert trained.keys() == params.keys()


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("backward_steps", [0, 1, 2, 4, 5, 9])
def test_truncated_is_the_gradient_by_a_later_point(backward_steps: int, every: int) -> None:
    """d L_query(theta_K) / d theta_{K-n} is the full meta-gradient of n steps from there."""
    loss, params = classifier()
    task, steps = make_task(SMALL), 5
    kept = min(backward_steps, steps)
    before = meta_gradient(loss, params, task, InnerLoop(steps - kept, 0.2), mode="fo").adapted
    expected = meta_gradient(loss, before, task, InnerLoop(kept, 0.2), method="unrolled").gradient
    inner = InnerLoop(steps, 0.2, every, backward_steps)
    for method in get_args(Method):
        actual = meta_gradient(loss, params, task, inner, method=method).gradient
        assert rel_diff(expected, actual) < 1e-12
    modes = {
        m: meta_gradient(loss, params, task, InnerLoop(steps, 0.2), mode=m) for m in ("fo", "full")
    }
    if backward_steps == 0:
        assert rel_diff(modes["fo"].gradient, actual) < 1e-12
    assert (rel_diff(modes["full"].gradient, actual) < 1e-12) is (backward_steps >= steps)


def test_truncated_shows_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    loss, params = classifier()
    meta_gradient(loss, params, make_task(SMALL), InnerLoop(5, backward_steps=2), progress=True)
    assert "7/7" in capsys.readouterr().err


def quadratic() -> tuple[Loss, Params, Task[Tensor], Tensor]:
    """L(theta; c) = (theta - c)^T A (theta - c) / 2, with A indefinite."""
    a = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, -0.4]]).double()

    def loss(params: Params, batch: Tensor) -> Tensor:
        difference = params["theta"] - batch
        return 0.5 * difference @ a @ difference

    params = {"theta": torch.tensor([0.5, -1.0, 2.0]).double()}
    task = Task(torch.tensor([1.0, 0.0, -1.0]).double(), torch.tensor([-0.5, 0.7, 0.3]).double())
    return loss, params, task, a


def test_implicit_is_the_closed_form_of_a_quadratic() -> None:
    loss, params, task, a = quadratic()
    proximity, identity = 1.5, torch.eye(3).double()
    result = implicit_meta_gradient(loss, params, task, InnerLoop(200, 0.4), proximity=proximity)
    optimum = torch.linalg.solve(
        a + proximity * identity, a @ task.support + proximity * params["theta"]
    )
    expected = torch.linalg.solve(identity + a / proximity, a @ (optimum - task.query))
    torch.testing.assert_close(result.adapted["theta"], optimum, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.gradient["theta"], expected, rtol=1e-10, atol=1e-10)
    assert result.products == 3, "as many as there are eigenvalues"
    assert result.residual < 1e-10
    assert result.stationarity < 1e-12


def test_implicit_is_the_unrolled_loop_of_a_converged_inner_problem() -> None:
    """Attention in the model: differentiating 400 steps gives what the formula gives."""
    loss, params = classifier()
    task, proximity = make_task(SMALL), 2.0
    inner = InnerLoop(400, 0.2)
    names = list(params)
    initial = {name: value.clone().requires_grad_() for name, value in params.items()}
    point = initial
    for _ in range(inner.steps):
        near = torch.stack([(point[n] - initial[n]).square().sum() for n in names]).sum()
        value = loss(point, task.support) + 0.5 * proximity * near
        step = torch.autograd.grad(value, list(point.values()), create_graph=True)
        point = {n: point[n] - inner.learning_rate * g for n, g in zip(names, step, strict=True)}
    gradient = torch.autograd.grad(loss(point, task.query), list(initial.values()))
    expected = dict(zip(names, gradient, strict=True))
    solver = ConjugateGradients(steps=200, tolerance=1e-13)
    result = implicit_meta_gradient(loss, params, task, inner, proximity=proximity, solver=solver)
    assert result.stationarity < 1e-12
    assert rel_diff(expected, result.gradient) < 1e-9
    rough = implicit_meta_gradient(
        loss, params, task, inner, proximity=proximity, solver=ConjugateGradients(1)
    )
    assert rough.products == 1
    assert rough.residual > 1e-6
    assert rel_diff(expected, rough.gradient) > 1e-6


def test_implicit_refuses_what_it_cannot_solve(capsys: pytest.CaptureFixture[str]) -> None:
    loss, params, task, _ = quadratic()
    with pytest.raises(ArithmeticError, match="raise proximity"):
        implicit_meta_gradient(loss, params, task, proximity=0.1)
    with pytest.raises(ValueError, match=r"proximity is .*, must be positive"):
        implicit_meta_gradient(loss, params, task, proximity=0.0)
    implicit_meta_gradient(loss, params, task, proximity=2.0, progress=True)
    assert "implicit" in capsys.readouterr().err


def test_wrong_use_is_refused() -> None:
    loss, params = classifier()
    with pytest.raises(ValueError, match="at least one task"):
        meta_batch_gradient(loss, params, [])
    with pytest.raises(ValueError, match="backward_steps"):
        InnerLoop(backward_steps=-1)
    with pytest.raises(ValueError, match="tolerance"):
        ConjugateGradients(tolerance=-1.0)
