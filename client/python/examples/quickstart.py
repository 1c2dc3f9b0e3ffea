"""An exact Hessian-vector product of attention in float32, against finite differences."""

import sys

import matplotlib.pyplot as plt
import numpy as np

import theria

shape = (7, 1, 2, 64, 32)  # seven tensors [batch, heads, seq, head_dim]
tensors = list(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
q, k, v, o_bar, q_dot, k_dot, v_dot = tensors
steps, differences = np.logspace(-6, 0, 31).tolist(), []

# In this process, or on the server that the command line names.
with theria.connect(sys.argv[1]) if sys.argv[1:] else theria.local() as client:
    o = client.forward(q, k, v).o
    exact = client.hvp(q, k, v, o_bar, q_dot, k_dot, v_dot).q_bar_dot  # one call
    true = client.hvp(*[x.astype(np.float64) for x in tensors]).q_bar_dot
    for h in steps:
        up = client.vjp(q + h * q_dot, k + h * k_dot, v + h * v_dot, o_bar).q_bar
        down = client.vjp(q - h * q_dot, k - h * k_dot, v - h * v_dot, o_bar).q_bar
        differences.append((up - down) / (2 * h))

errors = [float(np.linalg.norm(x - true) / np.linalg.norm(true)) for x in (exact, *differences)]
figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
axes.loglog(steps, errors[1:], "o-", c="#D55E00", ms=4, label="finite differences of client.vjp")
axes.axhline(errors[0], c="#0072B2", lw=2, label="client.hvp, one call")
axes.set(xlabel="step h", ylabel="relative error", title="Hessian-vector product in float32")
axes.legend()
figure.savefig("quickstart.png", dpi=200)
figure.savefig("quickstart.svg")
