"""What a failure of the server looks like from within meta-learning."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import theria
from theria.maml import (
    InnerLoop,
    diagnose,
    from_module,
    implicit_meta_gradient,
    meta_batch_gradient,
    meta_gradient,
    meta_train,
)
from theria.maml.tasks import AttentionClassifier, TaskSpec, initial_parameters, make_task

SPEC = TaskSpec(support=4, query=4, length=6, d_model=4)
INNER = InnerLoop(2, 0.1)


def problem(error: Exception) -> tuple[Any, Any, Any]:
    """A loss whose attention raises `error`, parameters and a task."""

    def attention(*_: torch.Tensor) -> torch.Tensor:
        raise error

    loss, _ = from_module(AttentionClassifier(SPEC, 0, attention), cross_entropy)
    return loss, initial_parameters(SPEC, 0), make_task(SPEC, 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda loss, params, task: meta_gradient(loss, params, task, INNER),
        lambda loss, params, task: meta_gradient(loss, params, task, INNER, method="unrolled"),
        lambda loss, params, task: meta_batch_gradient(loss, params, [task], INNER),
        lambda loss, params, task: meta_train(loss, params, [[task]], INNER, progress=False),
        lambda loss, params, task: diagnose(loss, params, task, INNER),
        lambda loss, params, task: implicit_meta_gradient(loss, params, task, INNER),
    ],
)
def test_a_failure_of_the_server_is_short(call: Callable[..., Any]) -> None:
    with pytest.raises(theria.Unavailable, match="gone") as caught:
        call(*problem(theria.Unavailable("gone")))
    report = "".join(traceback.format_exception(caught.value))
    assert report.count("\n") < 20, report


def test_a_mistake_in_the_model_shows_where_it_is() -> None:
    with pytest.raises(theria.InvalidArgument) as caught:
        meta_gradient(*problem(theria.InvalidArgument("k.shape")), INNER)
    assert "in attention" in "".join(traceback.format_exception(caught.value))
