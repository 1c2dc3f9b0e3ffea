"""Meta-gradients of any model: adjoint, unrolled and central differences agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, get_args

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from theria.maml import (
    InnerLoop,
    Loss,
    Method,
    Mode,
    Params,
    Task,
    diagnose,
    from_module,
    meta_gradient,
    meta_train,
    rel_diff,
)
from theria.maml.tasks import AttentionClassifier, TaskSpec, make_task, math_attention

Tensor = torch.Tensor
SMALL = TaskSpec(support=4, query=3, length=6, d_model=5, classes=3, signal_positions=2)


def classifier() -> tuple[Loss, Params, Task[Any]]:
    loss, params = from_module(AttentionClassifier(SMALL, 0, math_attention), cross_entropy)
    return loss, params, make_task(SMALL)


def network(dropout: float = 0.0) -> tuple[Loss, Params, Task[Any]]:
    """A module with a frozen parameter, a buffer and a tied parameter."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 8),
        torch.nn.LayerNorm(8),
        torch.nn.Tanh(),
        torch.nn.Dropout(dropout),
        torch.nn.BatchNorm1d(8).eval(),
        torch.nn.Linear(8, 2),
    ).double()
    module[1].weight.requires_grad_(False)
    loss, params = from_module(module, mse_loss)
    assert "1.weight" not in params

    def batch() -> tuple[Tensor, Tensor]:
        return torch.randn(7, 3).double(), torch.randn(7, 2).double()

    return loss, params, Task(batch(), batch())


def functional() -> tuple[Loss, Params, Task[Any]]:
    def loss(params: Params, batch: Tensor) -> Tensor:
        return (torch.sin(params["a"] * batch).sum() + params["b"] ** 3).square()

    params = {"a": torch.tensor([0.3, -0.7]).double(), "b": torch.tensor(0.4).double()}
    return loss, params, Task(torch.tensor([1.0, 2.0]).double(), torch.tensor([0.5, -1.0]).double())


MODELS = [classifier, network, functional]
Model = Callable[[], tuple[Loss, Params, Task[Any]]]


def assert_equal(actual: Params, expected: Params) -> None:
    assert actual.keys() == expected.keys()
    assert rel_diff(expected, actual) < 1e-12


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("model", MODELS)
def test_adjoint_is_unrolled(model: Model, steps: int, mode: Mode) -> None:
    loss, params, task = model()
    inner = InnerLoop(steps, 0.05)
    adjoint = meta_gradient(loss, params, task, inner, mode=mode)
    unrolled = meta_gradient(loss, params, task, inner, mode=mode, method="unrolled")
    assert_equal(adjoint.gradient, unrolled.gradient)
    assert_equal(adjoint.adapted, unrolled.adapted)
    torch.testing.assert_close(adjoint.loss, unrolled.loss)
    torch.testing.assert_close(adjoint.support_losses, unrolled.support_losses)
    assert len(adjoint.support_losses) == steps
    tensors = [*adjoint.gradient.values(), *unrolled.gradient.values(), unrolled.loss]
    assert not any(tensor.requires_grad for tensor in tensors)


@pytest.mark.parametrize("model", MODELS)
def test_full_is_the_derivative_of_the_adapted_loss(model: Model) -> None:
    loss, params, task = model()
    inner = InnerLoop(3, 0.05)
    generator = torch.Generator().manual_seed(1)
    direction = {
        name: torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in params.items()
    }

    def adapted_loss(step: float) -> float:
        moved = {name: value + step * direction[name] for name, value in params.items()}
        return float(meta_gradient(loss, moved, task, inner, mode="fo").loss)

    gradient = meta_gradient(loss, params, task, inner).gradient
    slope = sum(float((gradient[name] * direction[name]).sum()) for name in params)
    h = 1e-5
    assert slope == pytest.approx((adapted_loss(h) - adapted_loss(-h)) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_first_order_is_the_gradient_at_the_adapted_parameters(model: Model) -> None:
    loss, params, task = model()
    inner = InnerLoop(3, 0.05)
    result = meta_gradient(loss, params, task, inner, mode="fo")
    assert_equal(result.gradient, torch.func.grad(loss)(result.adapted, task.query))
    strict = meta_gradient(loss, params, task, inner, mode="fo_strict")
    assert_equal(strict.gradient, result.gradient)


@pytest.mark.parametrize("every", [2, 3, 4, 100])
def test_checkpoints_change_nothing(every: int) -> None:
    loss, params, task = network(dropout=0.3)

    def run(inner: InnerLoop) -> Params:
        torch.manual_seed(5)
        return meta_gradient(loss, params, task, inner).gradient

    assert_equal(run(InnerLoop(7, 0.05, checkpoint_every=every)), run(InnerLoop(7, 0.05)))


def test_the_way_back_sees_the_same_dropout() -> None:
    loss, params, task = network(dropout=0.3)
    results = []
    for method in get_args(Method):
        torch.manual_seed(5)
        results.append(meta_gradient(loss, params, task, InnerLoop(4, 0.05), method=method))
    assert_equal(results[0].gradient, results[1].gradient)


def test_the_generator_goes_on_as_if_there_were_no_way_back() -> None:
    loss, params, task = network(dropout=0.3)
    after = []
    for mode in ("full", "fo"):
        torch.manual_seed(5)
        meta_gradient(loss, params, task, InnerLoop(4, 0.05), mode=mode)
        after.append(torch.rand(3))
    assert torch.equal(*after)


def test_the_module_and_the_parameters_are_left_alone() -> None:
    loss, params, task = network()
    before = {name: value.clone() for name, value in params.items()}
    meta_gradient(loss, params, task)
    meta_train(loss, params, [[task]] * 2, progress=False)
    assert all(torch.equal(params[name], value) for name, value in before.items())


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that PyTorch held at once on the CPU, beyond what it held before."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        run()
    held = peak = 0
    events: Iterable[Any] = profile.profiler.kineto_results.events()
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def test_adjoint_memory_grows_by_the_parameters_alone() -> None:
    spec = TaskSpec(d_model=32)
    loss, params = from_module(AttentionClassifier(spec, 0, math_attention), cross_entropy)
    task = make_task(spec)
    parameter_bytes = sum(value.nbytes for value in params.values())

    def growth(method: Method, checkpoint_every: int = 1) -> float:
        def peak(steps: int) -> int:
            inner = InnerLoop(steps, 0.05, checkpoint_every)
            return peak_bytes(lambda: meta_gradient(loss, params, task, inner, method=method))

        peak(1)
        return (peak(12) - peak(4)) / 8

    per_step = growth("adjoint")
    random_state_bytes = torch.get_rng_state().nbytes
    assert per_step < 1.1 * (parameter_bytes + random_state_bytes)
    assert growth("adjoint", checkpoint_every=4) < 0.6 * per_step
    assert growth("unrolled") > 5 * per_step


@pytest.mark.parametrize(("mode", "path"), [("full", True), ("fo", True), ("fo_strict", False)])
def test_second_order_path(mode: Mode, path: bool) -> None:
    loss, params, task = classifier()
    result = diagnose(loss, params, task, InnerLoop(5, 0.4), mode=mode)
    assert result.second_order_path is path
    assert (result.probe_norm > 0) is path
    assert_equal(result.full, meta_gradient(loss, params, task, InnerLoop(5, 0.4)).gradient)
    assert result.rel_diff == rel_diff(result.full, result.first_order) > 0.01


def test_probe_is_the_derivative_of_half_the_squared_gradient_norm() -> None:
    """With no inner step the way back is the identity, and the probe H_query grad L_query."""
    loss, params, task = classifier()

    def half_square(theta: Params) -> Tensor:
        gradient = torch.func.grad(loss)(theta, task.query)
        return 0.5 * torch.stack([g.square().sum() for g in gradient.values()]).sum()

    expected = torch.func.grad(half_square)(params)
    norm = torch.cat([g.ravel() for g in expected.values()]).norm()
    for mode in ("full", "fo"):
        probe = diagnose(loss, params, task, InnerLoop(0), mode=mode).probe_norm
        assert probe == pytest.approx(float(norm), rel=1e-12)


class SquareWithoutCurvature(torch.autograd.Function):
    """Its gradient is right and counts as a constant: the defect that rel_diff must show."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], _output: Tensor) -> None:
        ctx.save_for_backward(inputs[0].detach())

    @staticmethod
    def backward(ctx: Any, y_bar: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient: Tensor = 2 * x.detach() * y_bar
        return gradient


@pytest.mark.parametrize(("square", "curved"), [(torch.square, True), (None, False)])
def test_curvature_that_is_lost_shows_in_the_values(
    square: Callable[[Tensor], Tensor] | None, curved: bool
) -> None:
    forward = square or SquareWithoutCurvature.apply

    def loss(params: Params, batch: Tensor) -> Tensor:
        return (forward(params["a"]) * batch).sum()

    params = {"a": torch.tensor([1.0, 2.0]).double()}
    task = Task(torch.tensor([1.0, 0.5]).double(), torch.tensor([1.0, -1.0]).double())
    unrolled = meta_gradient(loss, params, task, InnerLoop(2), method="unrolled").gradient
    first_order = meta_gradient(loss, params, task, InnerLoop(2), mode="fo").gradient
    assert (rel_diff(unrolled, first_order) > 0.1) is curved


def test_meta_training_lowers_the_loss_after_adaptation() -> None:
    loss, params, task = classifier()
    seen: list[float] = []
    trained, history = meta_train(
        loss,
        params,
        [[task, make_task(SMALL, index=1)]] * 30,
        InnerLoop(2, 0.1),
        make_optimizer=lambda tensors: torch.optim.SGD(tensors, lr=0.3),
        on_step=lambda step: seen.append(step.loss),
        progress=False,
    )
    assert seen == [step.loss for step in history]
    assert history[-1].loss < 0.5 * history[0].loss
    assert history[0].gradient_norm > 0
    assert trained.keys() == params.keys()


def test_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    loss, params, task = classifier()
    meta_gradient(loss, params, task, InnerLoop(3), progress=True)
    assert "6/6" in capsys.readouterr().err
    meta_train(loss, params, [[task, task]], InnerLoop(1), progress=True)
    assert "2task" in capsys.readouterr().err


def test_wrong_use_is_refused() -> None:
    loss, params, task = functional()
    with pytest.raises(ValueError, match="mode is 'FULL', must be one of full, fo, fo_strict"):
        meta_gradient(loss, params, task, mode="FULL")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method is 'implicit', must be one of adjoint, unrolled"):
        meta_gradient(loss, params, task, method="implicit")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps"):
        InnerLoop(-1)
    with pytest.raises(FloatingPointError, match="outer step 0"):
        meta_train(lambda p, b: (p["a"] / 0).sum(), params, [[task]], progress=False)  # noqa: ARG005
