"""Attention that also tells its log-sum-exp, so that its result can be merged with another's.

Three forms of one contract: the flash kernels of CPU and CUDA, and plain matrix products for
whatever they do not take.
"""

import torch
from torch import Tensor


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend and keep each query's log-sum-exp.

    out_i = sum_j p_ij v_j,  p_ij = exp(s_ij - lse_i),  lse_i = log sum_j exp(s_ij),
    s_ij = scale q_i . k_j

    Args:
        query: ``(B, heads, Q, D)``.
        key: ``(B, heads, K, D)``.
        value: ``(B, heads, K, D)``.
        is_causal: Query i sees keys up to i; needs Q = K.
        scale: Factor of the scores.

    Returns:
        The output ``(B, heads, Q, D)`` and the log-sum-exp ``(B, heads, Q)``, the latter in float32
        or better.
    """
    if _has_cpu_kernel(query):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, scale=scale
        )
        return out, lse
    if _has_cuda_kernel(query):
        found = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, is_causal, False, scale=scale
        )
        return found[0], found[1]
    scores = _plain_scores(query, key, is_causal=is_causal, scale=scale)
    lse = scores.logsumexp(-1)
    return ((scores - lse[..., None]).exp() @ value.to(scores.dtype)).to(query.dtype), lse


def attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Backpropagate through ``attend``, or through its part of a merged attention.

    dS = P * (dO V^T - rowsum(dO * O)),  dQ = scale dS K,  dK = scale dS^T Q,  dV = P^T dO,
    where P = exp(S - lse). With the merged O and lse, P holds this part's share of the whole
    softmax and the results are this part's share of the whole gradient.

    Args:
        grad: Gradient of the (merged) output, ``(B, heads, Q, D)``.
        query: As in ``attend``.
        key: As in ``attend``.
        value: As in ``attend``.
        out: The (merged) output.
        lse: The (merged) log-sum-exp, ``(B, heads, Q)``.
        is_causal: As in ``attend``.
        scale: As in ``attend``.

    Returns:
        Gradients of query, key and value, in their shapes.
    """
    if _has_cpu_kernel(query):
        grads: tuple[Tensor, Tensor, Tensor]
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, out, lse, 0.0, is_causal, scale=scale
        )
        return grads
    if _has_cuda_kernel(query):
        unused = torch.zeros(2, dtype=torch.uint64, device=query.device)
        grads = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad.contiguous(),
            *(query, key, value, out.contiguous(), lse.contiguous()),
            *(None, None, query.shape[2], key.shape[2], 0.0, is_causal, unused, unused),
            scale=scale,
        )
        return grads
    probs = (_plain_scores(query, key, is_causal=is_causal, scale=scale) - lse[..., None]).exp()
    grad, keys, values = (x.to(probs.dtype) for x in (grad, key, value))
    grad_probs = grad @ values.mT - (grad * out.to(probs.dtype)).sum(-1, keepdim=True)
    grad_scores = probs * grad_probs * scale
    return (
        (grad_scores @ keys).to(query.dtype),
        (grad_scores.mT @ query.to(probs.dtype)).to(key.dtype),
        (probs.mT @ grad).to(value.dtype),
    )


def _has_cpu_kernel(query: Tensor) -> bool:
    return query.device.type == "cpu"


def _has_cuda_kernel(query: Tensor) -> bool:
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
    )


def _plain_scores(query: Tensor, key: Tensor, *, is_causal: bool, scale: float) -> Tensor:
    kind = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(kind) @ key.to(kind).mT * scale
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores
