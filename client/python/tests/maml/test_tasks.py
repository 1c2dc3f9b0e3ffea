"""The synthetic task follows the recipe of the C++ client's theria/maml_task.h to the bit."""

from __future__ import annotations

import math

import pytest
import torch

from theria.maml.tasks import TaskSpec, initial_parameters, make_task, task_batches

WRAP = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WRAP
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WRAP
    return z ^ (z >> 31)


def uniform(seed: int, stream: int, i: int) -> float:
    bits = mix((mix((mix(seed) + GAMMA * (stream + 1)) & WRAP) + GAMMA * (i + 1)) & WRAP)
    return float(bits >> 11) * 2.0**-53


def normal(seed: int, stream: int, i: int) -> float:
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(seed, stream, 2 * i)))
    return radius * math.cos(2.0 * math.pi * uniform(seed, stream, 2 * i + 1))


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (1, 3), (2**64 - 1, 2)])
def test_task_follows_the_recipe(seed: int, index: int) -> None:
    spec = TaskSpec(3, 4, length=6, d_model=5, classes=3, signal_positions=2, noise=0.7)
    task = make_task(spec, seed, index)
    base = 16 * (index + 1)
    for first, (x, labels) in ((base + 1, task.support), (base + 4, task.query)):
        assert x.dtype == torch.float64
        for i, label in enumerate(labels.tolist()):
            assert label == int(spec.classes * uniform(seed, first, i))
            positions = list(range(1, spec.length))
            for j in range(spec.signal_positions):
                draw = uniform(seed, first + 1, i * spec.signal_positions + j)
                other = j + int((spec.length - 1 - j) * draw)
                positions[j], positions[other] = positions[other], positions[j]
            signal = positions[: spec.signal_positions]
            assert 0 not in signal
            for t in range(spec.length):
                for d in range(spec.d_model):
                    place = (i * spec.length + t) * spec.d_model + d
                    expected = spec.noise * normal(seed, first + 2, place)
                    if t in signal:
                        expected += normal(seed, base, label * spec.d_model + d)
                    assert x[i, t, d].item() == pytest.approx(expected, rel=1e-14, abs=1e-15)


def test_initial_parameters_follow_the_recipe() -> None:
    params = initial_parameters(TaskSpec(d_model=4, classes=3), seed=9)
    assert list(params) == ["w_q", "w_k", "w_v", "w_head", "b_head"]
    assert params["w_head"].shape == (3, 4)
    for stream, value in enumerate(params.values()):
        for i, element in enumerate(value.ravel().tolist()):
            assert element == (2.0 * uniform(9, stream, i) - 1.0) / math.sqrt(4)


def test_normal_numbers_have_their_moments() -> None:
    x, _ = make_task(TaskSpec(support=200, d_model=8, signal_positions=1)).support
    noise = x[:, 0]
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.05


def test_batches_number_their_tasks() -> None:
    spec = TaskSpec(support=2, query=2, length=3, d_model=2, signal_positions=1)
    steps = list(task_batches(spec, seed=4, steps=2, meta_batch=3))
    expected = make_task(spec, 4, 5)
    torch.testing.assert_close(steps[1][2].support, expected.support, rtol=0, atol=0)
    torch.testing.assert_close(steps[1][2].query, expected.query, rtol=0, atol=0)


@pytest.mark.parametrize("spec", [TaskSpec(support=0), TaskSpec(length=4, signal_positions=4)])
def test_impossible_sizes_are_refused(spec: TaskSpec) -> None:
    with pytest.raises(ValueError, match="length above signal_positions"):
        make_task(spec)
