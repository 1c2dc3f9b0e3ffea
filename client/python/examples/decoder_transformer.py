"""A decoder-only transformer, trained with attention from several implementations in lockstep.

Two pre-norm blocks of causal attention over 32 tokens, and a classifier on the last one. In the
synthetic task one token of 95 to 99 hides among the others and names the class; in the random task
labels are drawn, and nothing can be learnt. Every implementation starts from the same parameters
and sees the same batches, so that their losses must agree step by step.

    .venv/bin/python client/python/examples/decoder_transformer.py --task synthetic --steps 200
    .venv/bin/python client/python/examples/decoder_transformer.py --implementations auto --verbose
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from experiment import (
    BLUE,
    FAINT,
    GREEN,
    PURPLE,
    VERMILION,
    Attention,
    Block,
    Experiment,
    command_line,
    new_figure,
    run,
    running,
)
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

VOCABULARY, LENGTH, BATCH, CLASSES, LAYERS, HIDDEN = 100, 32, 8, 5, 2, 128
FIRST_SIGNAL = VOCABULARY - CLASSES
BASELINE = "explicit"


@dataclass(frozen=True)
class Row:
    """The training loss of one implementation at one step, before the step's update."""

    implementation: str
    step: int
    loss: float


class Decoder(torch.nn.Module):
    """Tokens [batch, 32] int64 to logits [batch, 5]."""

    def __init__(self, d_model: int, n_heads: int, attention: Attention) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(VOCABULARY, d_model)
        self.positions = torch.nn.Parameter(0.02 * torch.randn(LENGTH, d_model))
        blocks = (Block(d_model, n_heads, HIDDEN, attention, is_causal=True) for _ in range(LAYERS))
        self.blocks = torch.nn.Sequential(*blocks)
        self.norm = torch.nn.LayerNorm(d_model)
        self.head = torch.nn.Linear(d_model, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The logits, read off the last token, which sees all."""
        x = self.blocks(self.tokens(tokens) + self.positions)
        return self.head(self.norm(x[:, -1]))  # type: ignore[no-any-return]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the experiment and returns its summary."""
    parser = command_line("A decoder-only transformer on attention from several implementations.")
    parser.add_argument(
        "--implementations",
        nargs="+",
        help="explicit (always), torch, auto, reference, unfused, fused; default: those there are",
    )
    parser.add_argument("--task", choices=("synthetic", "random"), default="synthetic")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--d-model", type=int, default=64)
    parser.add_argument("--n-heads", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--verbose", action="store_true", help="print shapes and gradient norms")
    options = parser.parse_args(arguments)
    if options.d_model % options.n_heads:
        parser.error(f"--n-heads {options.n_heads} does not divide --d-model {options.d_model}")
    with running("decoder_transformer", options) as experiment:
        names = options.implementations or experiment.implementations()
        names = list(dict.fromkeys([BASELINE, *names]))
        rows = _train(experiment, names)
        summary = _summary(rows)
        experiment.write(summary, rows, _draw(rows, summary))
    print(
        f"loss {summary['first_loss']:.4f} -> {summary['last_loss']:.4f} (mean of the last ten "
        f"steps); implementations differ by at most {summary['largest_difference']:.1e} a step"
    )
    return summary


def _train(experiment: Experiment, names: Sequence[str]) -> list[Row]:
    options = experiment.options
    models = {}
    for name in names:
        torch.manual_seed(options.seed)
        attention = experiment.attention(name)
        if options.verbose:
            attention = _reporting(name, attention)
        model = Decoder(options.d_model, options.n_heads, attention)
        models[name] = model.to(options.device, getattr(torch, options.dtype))
    optimizers = {
        name: torch.optim.Adam(model.parameters(), lr=options.learning_rate)
        for name, model in models.items()
    }
    rows = []
    batches = _batches(options.task, options.seed, options.steps)
    bar = tqdm(batches, total=options.steps, desc="steps")
    for step, (tokens, labels) in enumerate(bar):
        for name, model in models.items():
            optimizers[name].zero_grad()
            loss = cross_entropy(model(tokens.to(options.device)), labels.to(options.device))
            loss.backward()
            optimizers[name].step()
            rows.append(Row(name, step, float(loss.detach())))
            if options.verbose:
                norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])  # type: ignore[misc]
                tqdm.write(f"step {step} {name}: loss {rows[-1].loss:.6f}, |gradient| {norm:.6f}")
        bar.set_postfix(loss=f"{rows[-1].loss:.4f}")
    return rows


def _batches(task: str, seed: int, steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        labels = torch.randint(CLASSES, (BATCH,), generator=generator)
        if task == "random":
            yield torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator), labels
            continue
        tokens = torch.randint(FIRST_SIGNAL, (BATCH, LENGTH), generator=generator)
        places = torch.randint(LENGTH, (BATCH,), generator=generator)
        tokens[torch.arange(BATCH), places] = FIRST_SIGNAL + labels
        yield tokens, labels


def _reporting(name: str, attention: Attention) -> Attention:
    def reported(*qkv: torch.Tensor, **options: Any) -> torch.Tensor:
        o = attention(*qkv, **options)
        shapes = ", ".join(f"{n} {tuple(x.shape)}" for n, x in zip("qkvo", (*qkv, o), strict=True))
        tqdm.write(f"{name}: {shapes} {o.dtype}")
        return o

    return reported


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    losses: dict[str, list[float]] = {}
    for row in rows:
        losses.setdefault(row.implementation, []).append(row.loss)
    baseline = losses[BASELINE]
    differences = {
        name: [abs(a - b) for a, b in zip(values, baseline, strict=True)]
        for name, values in losses.items()
        if name != BASELINE
    }
    return {
        "first_loss": baseline[0],
        "last_loss": sum(baseline[-10:]) / len(baseline[-10:]),
        "last_losses": {name: sum(v[-10:]) / len(v[-10:]) for name, v in losses.items()},
        "largest_difference": max((max(values) for values in differences.values()), default=0.0),
        "differences": differences,
    }


def _draw(rows: Sequence[Row], summary: dict[str, Any]) -> Figure:
    figure, (left, right) = new_figure(7.6, 3.1, 1, 2)
    baseline = [row.loss for row in rows if row.implementation == BASELINE]
    left.semilogy(baseline, color=FAINT, linewidth=4, label="PyTorch, explicit")
    colors = dict(zip(summary["differences"], (BLUE, VERMILION, GREEN, PURPLE), strict=False))
    for name, color in colors.items():
        losses = [row.loss for row in rows if row.implementation == name]
        label = "PyTorch, its own choice" if name == "torch" else f"Theria, {name}"
        left.semilogy(losses, color=color, linewidth=1, label=label)
        different = [(i, d) for i, d in enumerate(summary["differences"][name]) if d > 0]
        if different:
            right.semilogy(*zip(*different, strict=True), ".", color=color)
    left.axhline(0.05, color="#5F6368", linewidth=0.8, linestyle=(0, (4, 3)))
    left.set_xlabel("step")
    left.set_ylabel("training loss")
    left.set_title("Loss, each step a new batch of 8")
    left.legend(loc="lower left")
    right.set_xlabel("step")
    right.set_ylabel("|loss - loss of explicit attention|")
    right.set_ylim(1e-9, max(1e-5, 3 * summary["largest_difference"]))
    right.set_title("Agreement step by step (no mark: equal)")
    return figure


if __name__ == "__main__":
    run(main)
