import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rlff_lightning.models import attention_kernels
from rlff_lightning.models.attention_kernels import (
    Stretches,
    attend,
    attend_backward,
    attend_stretches,
    attend_stretches_backward,
    has_kernel,
)


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=is_causal, scale=0.5
    )


@pytest.fixture(params=["cpu kernel", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(attention_kernels, "_has_cpu_kernel", lambda query: False)
    return request.param


def test_the_log_sum_exp_is_that_of_the_scaled_scores(form: str):
    # One query (2, 0) against keys (1, 0) and (0, 3), scale 0.5: scores 1 and 0.
    query, key = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    value = torch.tensor([[10.0, 0.0], [0.0, 10.0]])
    out, lse = attend(
        query[None, None], key[None, None], value[None, None], is_causal=False, scale=0.5
    )
    e = math.e
    assert lse.item() == pytest.approx(math.log(e + 1), abs=1e-6)
    expected = torch.tensor([10 * e / (e + 1), 10 / (e + 1)])
    torch.testing.assert_close(out[0, 0, 0], expected)


@pytest.mark.parametrize("is_causal", [True, False])
def test_gradients_are_those_of_softmax_attention(form: str, is_causal: bool):
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)
        for _ in ("query", "key", "value")
    ]
    grad = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    expected = torch.autograd.grad(softmax_attention(*inputs, is_causal), inputs, grad)
    with torch.no_grad():
        out, lse = attend(*inputs, is_causal=is_causal, scale=0.5)
        found = attend_backward(grad, *inputs, out, lse, is_causal=is_causal, scale=0.5)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("is_causal", [True, False])
def test_the_cuda_kernel_agrees_with_the_cpu_kernel(is_causal: bool):
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 48, 64, dtype=torch.bfloat16) for _ in range(4)]
    ends = (0, 7, 7, 40, 48)
    results = []
    for device in ("cpu", "cuda"):
        grad, *rest = (x.to(device) for x in inputs)
        stretches = Stretches.between(ends, ends, is_causal=is_causal, device=grad.device)
        out, lse = attend_stretches(*rest, stretches, scale=0.125)
        grads = attend_stretches_backward(grad, *rest, out, lse, stretches, scale=0.125)
        results.append([x.float().cpu() for x in (out, lse, *grads)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("is_causal", [True, False])
def test_long_stretches_have_the_gradients_of_softmax_attention(is_causal: bool):
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 450, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    grad = torch.randn_like(inputs[0])
    spans = [slice(0, 440), slice(440, 450)]
    outs = [
        softmax_attention(*(x[:, :, span] for x in inputs), is_causal=is_causal) for span in spans
    ]
    expected = torch.autograd.grad(torch.cat(outs, 2), inputs, grad)
    ends = (0, 440, 440, 450)
    stretches = Stretches.between(ends, ends, is_causal=is_causal, device=grad.device)
    with torch.no_grad():
        out, lse = attend_stretches(*inputs, stretches, scale=0.5)
        found = attend_stretches_backward(grad, *inputs, out, lse, stretches, scale=0.5)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_neighbours_of_one_length_are_a_call_and_each_still_sees_its_own_keys_alone(
    form: str, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    query, key, value, grad = (torch.randn(1, 2, 24, 8, dtype=torch.float64) for _ in range(4))
    ends = (0, 4, 8, 12, 12, 17, 22, 24)
    calls = []
    plain = attention_kernels.attend

    def noted(query, *rest, **settings):
        calls.append(tuple(query.shape[::2]))
        return plain(query, *rest, **settings)

    monkeypatch.setattr(attention_kernels, "attend", noted)
    stretches = Stretches.between(ends, ends, is_causal=True, device=grad.device)
    out, lse = attend_stretches(query, key, value, stretches, scale=0.5)
    found = attend_stretches_backward(grad, query, key, value, out, lse, stretches, scale=0.5)
    assert calls == [(3, 4), (2, 5), (1, 2)]
    inputs = [x.requires_grad_() for x in (query, key, value)]
    spans = [slice(a, b) for a, b in pairwise(ends)]
    outs = torch.cat([softmax_attention(*(x[:, :, s] for x in inputs), True) for s in spans], 2)
    expected = torch.autograd.grad(outs, inputs, grad)
    for a, b in zip((out, *found), (outs, *expected), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_queries_of_one_length_with_keys_of_two_are_two_calls():
    device = torch.device("cpu")
    stretches = Stretches.between((0, 3, 6), (0, 2, 6), is_causal=False, device=device)
    assert [run.lengths for run in stretches.runs()] == [(3, 2), (3, 4)]
    # The keys of a stretch without queries lie between.
    stretches = Stretches.between((0, 3, 3, 6), (0, 2, 4, 6), is_causal=False, device=device)
    assert [run.keys for run in stretches.runs()] == [slice(0, 2), slice(4, 6)]


@pytest.mark.parametrize(
    ("device", "dtype", "width", "expected"),
    [
        ("cpu", torch.float64, 33, True),
        ("cuda", torch.bfloat16, 128, True),
        ("cuda", torch.float16, 256, True),
        ("cuda", torch.float32, 128, False),
        ("cuda", torch.bfloat16, 260, False),
        ("cuda", torch.bfloat16, 260 - 7, False),
    ],
)
def test_a_gpu_has_a_kernel_for_half_precision_alone(
    device: str, dtype: torch.dtype, width: int, expected: bool
) -> None:
    assert has_kernel(device, dtype, width) is expected
