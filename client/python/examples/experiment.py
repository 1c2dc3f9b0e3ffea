"""What the experiments share: a command line, a server, data files, figures, a transformer block.

Every experiment is run as

    .venv/bin/python client/python/examples/NAME.py [--target ADDR] [--size gpu --device cuda]

without --target it starts a CPU server of its own. It writes NAME.json, NAME.tsv, NAME.png and
NAME.svg to --out, which docs/experiments.md shows.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import theria
from theria.demo._processes import ProcessError, start_server
from theria.safety import explicit_attention
from theria.torch import sdpa

ROOT = Path(__file__).resolve().parents[3]

# Okabe and Ito, told apart by all eyes.
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
SKY, GREY, INK, FAINT = "#56B4E9", "#5F6368", "#202124", "#C4C7CC"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E5E8",
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "svg.hashsalt": "theria",
    "savefig.dpi": 200,
}

Attention: TypeAlias = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Experiment:
    """One run.

    Attributes:
        name: Of its files.
        client: Of the server.
        options: The command line.
    """

    name: str
    client: theria.Client
    options: argparse.Namespace

    @property
    def on_gpu(self) -> bool:
        """Whether to run the large size."""
        return bool(self.options.size == "gpu")

    def implementations(self) -> list[str]:
        """Those that the server has kernels of, by name."""
        return sorted({kernel.implementation for kernel in self.client.info().kernels})

    def attention(self, name: str) -> Attention:
        """By name: ``"explicit"`` in PyTorch, ``"torch"`` its own choice, or an implementation."""
        if name == "explicit":
            return explicit
        if name == "torch":
            return torch.nn.functional.scaled_dot_product_attention

        def on_server(*qkv: torch.Tensor, is_causal: bool = False) -> torch.Tensor:
            q, k, v = qkv
            chosen: Any = name
            return sdpa(q, k, v, is_causal=is_causal, client=self.client, implementation=chosen)

        return on_server

    def write(self, summary: dict[str, Any], rows: Sequence[Any], figure: Figure) -> None:
        """Writes the summary and the rows, dataclasses of one kind, and the figure."""
        folder: Path = self.options.out
        folder.mkdir(parents=True, exist_ok=True)
        info = self.client.info()
        options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.options).items()}
        for machine_specific in ("target", "server", "out"):
            options.pop(machine_specific)
        cuda = str(self.options.device).startswith("cuda")
        document = {
            "experiment": self.name,
            "options": options,
            "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
            "server": {"version": info.version, "backend": info.backend},
            "torch": torch.__version__,
            **{k: asdict(v) if is_dataclass(v) else v for k, v in summary.items()},  # type: ignore[arg-type]
            "rows": [asdict(row) for row in rows],
        }
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(document, indent=1) + "\n")
        columns = list(asdict(rows[0]))
        lines = ["\t".join(columns)]
        lines += ["\t".join(_cell(getattr(row, c)) for c in columns) for row in rows]
        path.with_suffix(".tsv").write_text("\n".join(lines) + "\n")
        figure.savefig(path.with_suffix(".png"))
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        print(f"{path}, .tsv, .png, .svg", file=sys.stderr)


def command_line(description: str) -> argparse.ArgumentParser:
    """The options that all experiments have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--target", metavar="ADDR", help="a running server; default: start one")
    parser.add_argument("--server", type=Path, default=ROOT / "build/bin/theria-server")
    parser.add_argument("--size", choices=("cpu", "gpu"), default="cpu", help="default: cpu")
    parser.add_argument("--device", default="cpu", help="of PyTorch's tensors; default: cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "build/experiments")
    return parser


@contextmanager
def running(name: str, options: argparse.Namespace) -> Iterator[Experiment]:
    """The experiment, connected to the server of --target or to one of its own."""
    torch.set_num_threads(1 if options.size == "cpu" else torch.get_num_threads())
    if options.target:
        with theria.connect(options.target, timeout=120.0) as client:
            yield Experiment(name, client, options)
        return
    log = options.out / "logs" / f"{name}.log"
    with start_server(options.server, log) as target, theria.connect(target, timeout=120.0) as c:
        yield Experiment(name, c, options)


def run(main: Callable[[], object]) -> NoReturn:
    """Runs `main` as a program. A failure of the server is one line, and exit status 3."""
    try:
        main()
    except (theria.Error, ProcessError, FloatingPointError) as error:
        sys.exit(_failed(error))
    sys.exit(0)


def _failed(error: Exception) -> int:
    print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    return 3


def explicit(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = False
) -> torch.Tensor:
    """Attention in PyTorch's own operations, differentiable in every mode: the comparison."""
    if not is_causal:
        return explicit_attention(q, k, v)
    later = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(later, float("-inf"))
    return torch.softmax(scores, -1) @ v


class Block(torch.nn.Module):
    """A pre-norm transformer block; attention is what it is given."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_hidden: int,
        attention: Attention,
        is_causal: bool = False,
    ) -> None:
        super().__init__()
        self.norm_1 = torch.nn.LayerNorm(d_model)
        self.qkv = torch.nn.Linear(d_model, 3 * d_model)
        self.out = torch.nn.Linear(d_model, d_model)
        self.norm_2 = torch.nn.LayerNorm(d_model)
        self.hidden = torch.nn.Linear(d_model, d_hidden)
        self.output = torch.nn.Linear(d_hidden, d_model)
        self._n_heads = n_heads
        self._attention = attention
        self._is_causal = is_causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, length, d_model] to the same."""
        qkv = self.qkv(self.norm_1(x)).unflatten(-1, (3, self._n_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        o = self._attention(q, k, v, is_causal=self._is_causal)
        x = x + self.out(o.transpose(1, 2).flatten(-2))
        hidden = torch.nn.functional.gelu(self.hidden(self.norm_2(x)))
        return x + self.output(hidden)  # type: ignore[no-any-return]


def band(axes: Axes, x: Sequence[float], runs: npt.ArrayLike, color: str, **style: Any) -> None:
    """The mean of runs [run, x] as a line, and from the least to the largest as a band."""
    runs = np.asarray(runs, dtype=np.float64)
    axes.fill_between(x, runs.min(0), runs.max(0), color=color, alpha=0.18, linewidth=0)
    axes.plot(x, runs.mean(0), color=color, **style)


def new_figure(width: float, height: float, *grid: int, **options: Any) -> tuple[Figure, Any]:
    """A figure in the common style, and its axes."""
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(*grid, **options)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.9g}" if isinstance(value, float) else str(value)
