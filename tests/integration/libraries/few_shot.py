"""A tiny few-shot task, and models of PyTorch's own modules that attend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

Tensor = torch.Tensor
Gradients = list[Tensor]
# Given the gradients by dtype, checks them through the service.
Compare = Callable[[Callable[[torch.dtype], Gradients]], None]
CLASSES, WIDTH, LENGTH = 3, 8, 5
INNER_STEPS, INNER_RATE = 3, 0.1
# Adam divides by the root of a moment of the gradient, plus this: float32 keeps 1e-6 with it.
ADAM_EPS = 0.1


class Classifier(nn.Module):
    """An encoder layer, the mean over tokens, a linear head.

    Without biases: the gradient of the keys' bias is zero but for rounding, which Adam would blow
    up to steps as long as any other.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoderLayer(
            WIDTH, 2, 16, dropout=0.0, batch_first=True, bias=False
        )
        self.head = nn.Linear(WIDTH, CLASSES, bias=False)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x).mean(1))
        return logits


@dataclass(frozen=True)
class Task:
    x: Tensor
    y: Tensor
    x_query: Tensor
    y_query: Tensor


def make_task(dtype: torch.dtype, seed: int = 1) -> Task:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> tuple[Tensor, Tensor]:
        x = torch.randn(6, LENGTH, WIDTH, generator=generator)
        return x.to(dtype), torch.randint(CLASSES, (6,), generator=generator)

    return Task(*draw(), *draw())
