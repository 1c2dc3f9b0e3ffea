"""The numbers that the tests here hold the C++ meta-learner to, from an independent implementation.

The task and the parameters follow the recipe of client/cpp/include/theria/maml_task.h in numpy; the
meta-gradient is PyTorch's, by differentiating the unrolled inner loop in float64.

    .venv/bin/python tests/unit/client/maml/unrolled_reference.py
"""

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Episode = tuple[torch.Tensor, torch.Tensor]

GOLDEN = 0x9E3779B97F4A7C15
EXAMPLES, LENGTH, D_MODEL, CLASSES, SIGNAL_POSITIONS = 16, 32, 64, 5, 4


def _mix(z: Words) -> Words:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _uniform(seed: int, stream: int, count: int) -> Floats:
    """The first `count` draws of a stream, in [0, 1)."""
    key = _mix(_mix(np.array([seed], np.uint64)) + np.uint64(GOLDEN * (stream + 1) % 2**64))
    index = np.arange(1, count + 1, dtype=np.uint64)
    return np.asarray(_mix(key + np.uint64(GOLDEN) * index) >> np.uint64(11), np.float64) * 2.0**-53


def _normal(seed: int, stream: int, shape: tuple[int, ...]) -> Floats:
    u = _uniform(seed, stream, 2 * int(np.prod(shape)))
    z: Floats = np.sqrt(-2.0 * np.log(1.0 - u[0::2])) * np.cos(2.0 * np.pi * u[1::2])
    return z.reshape(shape)


def make_episode(seed: int, base: int, prototypes: Floats) -> Episode:
    """X [examples, length, d_model] float64 and labels [examples] int64."""
    labels = np.floor(CLASSES * _uniform(seed, base, EXAMPLES)).astype(np.int64)
    draws = _uniform(seed, base + 1, EXAMPLES * SIGNAL_POSITIONS)
    x = _normal(seed, base + 2, (EXAMPLES, LENGTH, D_MODEL))
    for i in range(EXAMPLES):
        p = list(range(1, LENGTH))
        for j in range(SIGNAL_POSITIONS):
            other = j + int((LENGTH - 1 - j) * draws[i * SIGNAL_POSITIONS + j])
            p[j], p[other] = p[other], p[j]
        x[i, p[:SIGNAL_POSITIONS]] += prototypes[labels[i]]
    return torch.tensor(x), torch.tensor(labels)


def make_task(seed: int, index: int) -> tuple[Episode, Episode]:
    """Support and query episodes of task number `index`."""
    base = 16 * (index + 1)
    prototypes = _normal(seed, base, (CLASSES, D_MODEL))
    return make_episode(seed, base + 1, prototypes), make_episode(seed, base + 4, prototypes)


def make_parameters(seed: int) -> list[torch.Tensor]:
    """w_q, w_k, w_v [d_model, d_model], w_head [classes, d_model], b_head [classes]; float64."""
    shapes = [(D_MODEL, D_MODEL)] * 3 + [(CLASSES, D_MODEL), (CLASSES,)]
    draws = [_uniform(seed, s, int(np.prod(shape))) for s, shape in enumerate(shapes)]
    bound = 1.0 / np.sqrt(D_MODEL)
    return [
        torch.tensor((2.0 * u - 1.0) * bound).reshape(shape).requires_grad_()
        for u, shape in zip(draws, shapes, strict=True)
    ]


def loss_of(w: list[torch.Tensor], episode: Episode) -> torch.Tensor:
    """The classifier's cross-entropy on an episode: a scalar."""
    x, labels = episode
    q, k, v = x[:, :1] @ w[0].T, x @ w[1].T, x @ w[2].T
    o = torch.softmax(q @ k.transpose(1, 2) / D_MODEL**0.5, -1) @ v
    return torch.nn.functional.cross_entropy(o[:, 0] @ w[3].T + w[4], labels)


def _flat(tensors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


def report(steps: int, learning_rate: float) -> str:
    """One line of figures for seed 0, task 0."""
    support, query = make_task(0, 0)
    initial = make_parameters(0)
    w = initial
    for _ in range(steps):
        gradient = torch.autograd.grad(loss_of(w, support), w, create_graph=True)
        w = [p - learning_rate * g for p, g in zip(w, gradient, strict=True)]
    loss = loss_of(w, query)
    full = _flat(torch.autograd.grad(loss, initial, retain_graph=True))
    first_order = _flat(torch.autograd.grad(loss, w, create_graph=True))
    probe = _flat(torch.autograd.grad(first_order.square().sum() / 2.0, initial))
    first_order = first_order.detach()
    figures = [
        loss.detach(),
        full.norm(),
        first_order.norm(),
        (full - first_order).norm() / full.norm(),
        probe.norm(),
    ]
    return f"{steps:2d} {learning_rate}  " + "  ".join(f"{f.item():.15g}" for f in figures)


def main() -> None:
    """Prints what task_test.cc and maml_test.cc expect."""
    w = [p.detach().flatten() for p in make_parameters(7)]
    for value in (w[0][0], w[0][-1], w[2][1], w[3][-1], w[4][-1]):
        print(f"{value.item():.17g}")
    support, query = make_task(7, 2)
    print(support[1].tolist(), query[1].tolist())
    for value in (support[0][0, 0, 0], support[0][15, 31, 63], query[0][3, 9, 5]):
        print(f"{value.item():.17g}")
    print(f"{support[0].sum().item():.15g} {query[0].abs().sum().item():.15g}")
    print("steps, rate: loss, |full|, |first order|, rel_diff, |probe|")
    for steps, learning_rate in ((5, 0.1), (1, 0.4), (5, 0.4), (10, 0.4), (20, 0.4)):
        print(report(steps, learning_rate))


if __name__ == "__main__":
    main()
