"""PyTorch's tensors on a GPU, whatever the server computes on."""

from __future__ import annotations

import pytest
import torch
from sdpa_cases import ALL, PLAIN, TRANSFORMS, Case, identifier, transforms
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

import theria
from theria.maml import InnerLoop, Method, Task, from_module, meta_batch_gradient, rel_diff
from theria.maml.tasks import AttentionClassifier, TaskSpec, make_task, math_attention
from theria.torch import DerivativeOrderError, patch, sdpa

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")

DEVICE = "cuda"


@pytest.mark.parametrize("name", TRANSFORMS)
def test_func_transform(name: str, client: theria.Client) -> None:
    with sdpa_kernel(SDPBackend.MATH):
        expected = transforms(PLAIN.math())[name](PLAIN.inputs())
    q, k, v = (x.to(DEVICE) for x in PLAIN.inputs())
    with torch.device(DEVICE):
        actual = transforms(PLAIN.service(client))[name]((q, k, v))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9, check_device=False)


@pytest.mark.parametrize("case", ALL, ids=identifier)
def test_double_backward_is_that_of_tensors_on_the_cpu(case: Case, client: theria.Client) -> None:
    def derivatives(device: str) -> list[torch.Tensor]:
        inputs = [x.to(device).requires_grad_() for x in case.inputs()]
        o = case.service(client)(*inputs)
        first = torch.autograd.grad(o.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), inputs)
        assert {x.device.type for x in (o, *first, *second)} == {device}
        return [x.cpu() for x in (o, *first, *second)]

    for actual, expected in zip(derivatives(DEVICE), derivatives("cpu"), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_patched_layer_under_autocast(dtype: torch.dtype, client: theria.Client) -> None:
    """A module of PyTorch's own, off by no more than with its explicit attention."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    x = torch.randn(3, 9, 32)

    def derivatives(device: str, autocast: bool) -> torch.Tensor:
        module = layer.to(device, torch.float32 if autocast else torch.float64)
        inputs = x.to(device, next(module.parameters()).dtype)
        wanted = list(module.parameters())
        with torch.autocast(device, dtype, enabled=autocast):
            loss = module(inputs).sin().sum()
        first = torch.autograd.grad(loss, wanted, create_graph=True)
        second = torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), wanted)
        return torch.cat([g.detach().double().cpu().ravel() for g in (*first, *second)])

    with patch(client=client):
        actual = derivatives(DEVICE, autocast=True)
    with sdpa_kernel(SDPBackend.MATH):
        theirs = derivatives(DEVICE, autocast=True)
        exact = derivatives("cpu", autocast=False)
    rounding = torch.finfo(dtype).eps * exact.norm()
    assert (actual - exact).norm() < 2 * (theirs - exact).norm() + rounding


def test_patch_reaches_the_fast_path_of_evaluation(client: theria.Client) -> None:
    """Which PyTorch's own encoder layer takes on a GPU without gradients, and has no derivative."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).double().eval().to(DEVICE)
    x = torch.randn(2, 5, 16, dtype=torch.float64, device=DEVICE)
    direction, h = x.cos(), 1e-5
    with torch.no_grad():
        slope = (layer(x + h * direction) - layer(x - h * direction)) / (2 * h)
        with patch(client=client):
            actual, tangent = torch.func.jvp(layer, (x,), (direction,))
        torch.testing.assert_close(actual, layer(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tangent, slope, rtol=1e-7, atol=1e-7)


def test_third_order_is_refused(client: theria.Client) -> None:
    x = PLAIN.inputs()[0].to(DEVICE).requires_grad_()
    y = sdpa(x, x, x, client=client).sin().sum()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(y, x, create_graph=True)
        y = gradient.square().sum()
    with pytest.raises(DerivativeOrderError, match="third-order"):
        torch.autograd.grad(y, x)


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("method", ["adjoint", "unrolled"])
def test_meta_gradients(method: Method, vectorize: bool, client: theria.Client) -> None:
    spec, inner = TaskSpec(support=4, query=4, length=8, d_model=16), InnerLoop(3, 0.2)
    tasks = [make_task(spec, index=index) for index in range(3)]
    loss, params = from_module(AttentionClassifier(spec, 0, math_attention), cross_entropy)
    expected = meta_batch_gradient(loss, params, tasks, inner, method="unrolled").gradient

    def on_server(*qkv: torch.Tensor) -> torch.Tensor:
        return sdpa(*qkv, client=client)

    model = AttentionClassifier(spec, 0, on_server).to(DEVICE)
    loss, params = from_module(model, cross_entropy)
    moved = [
        Task(*(tuple(x.to(DEVICE) for x in part) for part in (t.support, t.query))) for t in tasks
    ]
    result = meta_batch_gradient(loss, params, moved, inner, method=method, vectorize=vectorize)
    actual = {name: gradient.cpu() for name, gradient in result.gradient.items()}
    assert rel_diff(expected, actual) < 1e-9
