"""Times the CUDA backend beside PyTorch on one GPU, in one run, and writes JSON.

    python3 tests/bench/cuda/bench.py LIBRARY [--json FILE] [--peers flash,cudnn] [--rows ...]

Times are medians by device events, in milliseconds; TFLOP/s count the products of the definition
(forward 2, VJP 5, JVP 6, HVP from scratch 21, each 2 * batch * heads * seq_q * seq_kv * head_dim;
half if causal). The VJP is given o and lse, as PyTorch's backward is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cuda"))
from environment import environment
from theria_shim import Options, Shim, allocate_outputs

# name, batch, heads, seq, head_dim, causal
ROWS = [
    ("small", 4, 16, 2048, 64, False),
    ("small", 4, 16, 2048, 64, True),
    ("medium", 4, 16, 2048, 128, False),
    ("large", 4, 16, 4096, 128, False),
    ("large", 4, 16, 4096, 128, True),
    ("long", 1, 16, 16384, 64, False),
    ("long", 1, 16, 16384, 128, False),
    ("long", 1, 16, 16384, 128, True),
    ("vit", 64, 12, 197, 64, False),
    ("maml", 32, 4, 64, 32, False),
]
PRODUCTS = {"forward": 2, "vjp": 5, "jvp": 6, "hvp": 21}


def timed(run: Callable[[], object], repeats: int = 20) -> float:
    """Median milliseconds of `run` by device events, after three warm-ups."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def timed_ours(
    shim: Shim, operation: str, inputs: dict[str, torch.Tensor], causal: bool, repeats: int
) -> tuple[float, str]:
    """Median milliseconds and the kernels' names."""
    outputs = allocate_outputs(operation, inputs)
    options = Options(is_causal=causal)
    torch.cuda.synchronize()
    times = []
    kernel = ""
    for _ in range(3 + repeats):
        seconds, kernel = shim.call(operation, inputs, outputs, options)
        times.append(1e3 * seconds)
    return statistics.median(times[3:]), kernel


def explicit(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """softmax(scale q k^T + mask) v by explicit operations."""
    s = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if causal:
        rows = torch.arange(s.shape[-2], device=s.device).view(-1, 1)
        s = s.masked_fill(torch.arange(s.shape[-1], device=s.device) > rows, -torch.inf)
    return torch.softmax(s, dim=-1) @ v


def compiled_jvp(causal: bool) -> Callable[..., object]:
    """torch.compile of the JVP of the explicit formula."""

    def jvp(q, k, v, q_dot, k_dot, v_dot):  # type: ignore[no-untyped-def]
        return torch.func.jvp(lambda *x: explicit(*x, causal), (q, k, v), (q_dot, k_dot, v_dot))

    return torch.compile(jvp)


def compiled_hvp(causal: bool) -> Callable[..., object]:
    """torch.compile of forward over reverse of the explicit formula."""

    def gradients(q, k, v, o_bar):  # type: ignore[no-untyped-def]
        o, pull = torch.func.vjp(lambda *x: explicit(*x, causal), q, k, v)
        return o, pull(o_bar)

    def hvp(q, k, v, o_bar, q_dot, k_dot, v_dot, o_bar_dot):  # type: ignore[no-untyped-def]
        return torch.func.jvp(gradients, (q, k, v, o_bar), (q_dot, k_dot, v_dot, o_bar_dot))

    return torch.compile(hvp)


def torch_times(
    inputs: dict[str, torch.Tensor], causal: bool, peers: list[str], repeats: int
) -> dict[str, float | str]:
    """Milliseconds of PyTorch's ways, by "operation peer"; a text where one fails."""
    results: dict[str, float | str] = {}
    q, k, v = (inputs[n].detach().clone().requires_grad_() for n in ("q", "k", "v"))
    for peer, backend in (
        ("flash", SDPBackend.FLASH_ATTENTION),
        ("cudnn", SDPBackend.CUDNN_ATTENTION),
    ):
        if peer not in peers:
            continue
        try:
            with sdpa_kernel(backend):

                def forward() -> torch.Tensor:
                    return functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

                with torch.no_grad():
                    results[f"forward {peer}"] = timed(forward, repeats)
                o = forward()

                def backward(o: torch.Tensor = o) -> object:
                    return torch.autograd.grad(o, (q, k, v), inputs["o_bar"], retain_graph=True)

                results[f"vjp {peer}"] = timed(backward, repeats)
        except RuntimeError as error:
            results[f"vjp {peer}"] = str(error)[:80]
    if "compile" in peers and inputs["q"].shape[2] <= 4096:
        torch._dynamo.reset()
        order = ("q", "k", "v", "q_dot", "k_dot", "v_dot")
        arguments = [inputs[name] for name in order]
        jvp = compiled_jvp(causal)
        results["jvp compile"] = timed(lambda: jvp(*arguments), repeats)
        order = ("q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot")
        all_arguments = [inputs[name] for name in order]
        hvp = compiled_hvp(causal)
        results["hvp compile"] = timed(lambda: hvp(*all_arguments), repeats)
    return results


def main() -> None:
    """Times every row and prints one line for each operation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peers", default="flash,cudnn")
    parser.add_argument("--rows", default="", help="comma-separated numbers of rows; all if empty")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--operations", default="forward,vjp,jvp,hvp")
    arguments = parser.parse_args()
    shim = Shim(arguments.library)
    dtype = getattr(torch, arguments.dtype)
    peers = [peer for peer in arguments.peers.split(",") if peer]
    chosen = [int(row) for row in arguments.rows.split(",")] if arguments.rows else range(len(ROWS))
    results = []
    for row in chosen:
        preset, batch, heads, seq, dim, causal = ROWS[row]
        names = ("q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot")
        inputs = {
            name: torch.randn(batch, heads, seq, dim, device="cuda", dtype=dtype) for name in names
        }
        other = torch_times(inputs, causal, peers, arguments.repeats)
        torch.cuda.empty_cache()
        given = {
            "forward": ("q", "k", "v"),
            "vjp": ("q", "k", "v", "o_bar"),
            "jvp": ("q", "k", "v", "q_dot", "k_dot", "v_dot"),
            "hvp": names,
        }
        forward = allocate_outputs("forward", inputs)
        shim.call("forward", {n: inputs[n] for n in given["forward"]}, forward, Options(causal))
        for operation in arguments.operations.split(","):
            own = {name: inputs[name] for name in given[operation]}
            if operation == "vjp":
                own |= forward
            milliseconds, kernel = timed_ours(shim, operation, own, causal, arguments.repeats)
            flops = PRODUCTS[operation] * 2.0 * batch * heads * seq * seq * dim
            flops *= 0.5 if causal else 1.0
            peer_times = {
                key.split()[1]: value for key, value in other.items() if key.split()[0] == operation
            }
            shape = f"{batch},{heads},{seq},{dim}"
            results.append(
                {
                    "preset": preset,
                    "shape": shape,
                    "causal": causal,
                    "operation": operation,
                    "dtype": arguments.dtype,
                    "kernel": kernel,
                    "milliseconds": milliseconds,
                    "tflops": flops / milliseconds / 1e9,
                    "peers": peer_times,
                }
            )
            text = " ".join(
                f"{peer} {value:.3f} ({value / milliseconds:.2f}x)"
                if isinstance(value, float)
                else f"{peer} {value}"
                for peer, value in peer_times.items()
            )
            mask = "causal" if causal else "full"
            print(
                f"{shape:16s}{mask:7s}{operation:8s}{milliseconds:9.3f} ms"
                f"{flops / milliseconds / 1e9:7.0f} TFLOP/s  {text}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"environment": environment(), "results": results}, indent=1)
        )


if __name__ == "__main__":
    main()
