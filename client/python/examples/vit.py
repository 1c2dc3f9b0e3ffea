"""A vision transformer's block at 197 tokens, forward and backward, beside PyTorch's attention.

196 patches and a class token, 6 heads of 64: the block of ViT-S. The same block runs on PyTorch's
explicit attention, on its `scaled_dot_product_attention` and on every implementation of the server.
Reported are the time relative to PyTorch's own choice in the same run, and the largest error of
output and gradients against the same block in float64. A server's time holds the way of all tensors
there and back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from statistics import median
from typing import Any

import torch
from experiment import (
    BLUE,
    FAINT,
    GREY,
    INK,
    SKY,
    Block,
    Experiment,
    command_line,
    new_figure,
    run,
    running,
)
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from tqdm.auto import tqdm

TOKENS, HEADS, HEAD_DIM, HIDDEN = 197, 6, 64, 1536
PEER = "torch"


@dataclass(frozen=True)
class Row:
    """One attention in the block.

    Attributes:
        attention: ``"explicit"``, ``"torch"`` or an implementation of the server.
        forward_ratio: Median time of a forward, of PyTorch's own choice in the same run.
        backward_ratio: The same of forward and backward.
        output_error: Largest |x - x_64| of the output.
        gradient_error: Largest |x - x_64| / max |x_64| over input and parameters.
    """

    attention: str
    forward_ratio: float
    backward_ratio: float
    output_error: float
    gradient_error: float


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the experiment and returns its summary."""
    parser = command_line("A ViT block at 197 tokens, forward and backward.")
    parser.add_argument("--batch", type=int, help="images; default: 2, on a GPU 64")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    with running("vit", options) as experiment:
        options.batch = options.batch or (64 if experiment.on_gpu else 2)
        options.dtype = options.dtype or ("bfloat16" if experiment.on_gpu else "float32")
        rows = _measure(experiment)
        by_name = {row.attention: row for row in rows}
        summary = {
            "shape": [options.batch, HEADS, TOKENS, HEAD_DIM],
            "peer_output_error": by_name[PEER].output_error,
            "peer_gradient_error": by_name[PEER].gradient_error,
        }
        experiment.write(summary, rows, _draw(rows, options))
    for row in rows:
        print(row)
    return summary


def _measure(experiment: Experiment) -> list[Row]:
    options = experiment.options
    dtype = getattr(torch, options.dtype)
    names = ["explicit", PEER, *experiment.implementations()]
    blocks = {}
    for name in names:
        torch.manual_seed(0)
        block = Block(HEADS * HEAD_DIM, HEADS, HIDDEN, experiment.attention(name))
        blocks[name] = block.to(options.device, dtype)
    x = torch.randn(options.batch, TOKENS, HEADS * HEAD_DIM).to(options.device, dtype)
    x_bar = torch.randn_like(x)
    exact = _values(_in_float64(experiment, blocks["explicit"]), x.double(), x_bar.double())
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for repeat in tqdm(range(options.repeats + 1), desc="repeats"):
        for name, block in blocks.items():  # in turns, so that all see the same machine
            pair = _times(block, x, x_bar)
            if repeat:
                times[name].append(pair)
    medians = {
        name: [median(column) for column in zip(*t, strict=True)] for name, t in times.items()
    }
    rows = []
    for name, block in blocks.items():
        output, *gradients = _values(block, x, x_bar)
        errors = [_relative(g, e) for g, e in zip(gradients, exact[1:], strict=True)]
        rows.append(
            Row(
                name,
                medians[name][0] / medians[PEER][0],
                medians[name][1] / medians[PEER][1],
                float((output.double() - exact[0]).abs().max()),
                max(errors),
            )
        )
    return rows


def _in_float64(experiment: Experiment, block: Block) -> Block:
    copy = Block(HEADS * HEAD_DIM, HEADS, HIDDEN, experiment.attention("explicit")).double()
    copy.load_state_dict(block.state_dict())
    return copy.to(experiment.options.device)


def _values(block: Block, x: torch.Tensor, x_bar: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    o = block(x)
    return [o.detach(), *torch.autograd.grad(o, [x, *block.parameters()], x_bar)]


def _times(block: Block, x: torch.Tensor, x_bar: torch.Tensor) -> tuple[float, float]:
    """Seconds of a forward without gradients, and of forward and backward."""

    def forward() -> None:
        with torch.no_grad():
            block(x)

    return _time(forward, x), _time(lambda: _values(block, x, x_bar), x)


def _time(action: Callable[[], object], x: torch.Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    action()
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _relative(x: torch.Tensor, exact: torch.Tensor) -> float:
    return float((x.double() - exact).abs().max() / exact.abs().max())


def _draw(rows: Sequence[Row], options: Any) -> Figure:
    figure, (left, right) = new_figure(8.0, 0.45 * len(rows) + 1.5, 1, 2, sharey=True)
    labels = {"explicit": "PyTorch, explicit", PEER: "PyTorch, its own choice"}
    for place, row in enumerate(rows):
        ours = row.attention not in labels
        pairs = ((row.forward_ratio, -0.18, SKY), (row.backward_ratio, 0.18, BLUE))
        for value, shift, color in pairs:
            left.barh(place + shift, value, 0.32, color=color if ours else FAINT)
            left.text(value + 0.03, place + shift, f"{value:.2f}", va="center", fontsize=7.5)
        color = BLUE if ours else GREY
        right.plot(row.output_error, place, "o", color=color)
        right.plot(row.gradient_error, place, "D", color=color, markerfacecolor="none")
    left.set_yticks(
        range(len(rows)), [labels.get(r.attention, f"Theria, {r.attention}") for r in rows]
    )
    left.invert_yaxis()
    left.tick_params(axis="y", length=0, labelcolor=INK)
    left.grid(axis="y", visible=False)
    left.axvline(1, color=GREY, linewidth=0.8)
    left.set_xlim(0, 1.15 * max(max(r.forward_ratio, r.backward_ratio) for r in rows))
    left.set_xlabel(
        "time / PyTorch's own choice\n(upper bar: forward, lower: forward and backward)"
    )
    left.set_title(f"ViT block, {options.batch} images, {options.dtype}")
    right.set_xscale("log")
    errors = [e for row in rows for e in (row.output_error, row.gradient_error)]
    right.set_xlim(10 ** floor(log10(min(errors))), 10 ** ceil(log10(max(errors))))
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_xlabel("largest error against float64\n(filled: output, open: gradients, relative)")
    right.set_title("Error")
    return figure


if __name__ == "__main__":
    run(main)
