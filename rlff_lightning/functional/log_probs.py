"""Log-probabilities of tokens, without ever holding the logits of all of them.

A vocabulary of 152k makes logits the largest tensor of a training step. So rows are taken in
chunks, and backward computes a chunk's logits once more, unless one chunk is all there is. The
softmax is done in float32 at least.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlff_lightning.errors import UserError
from rlff_lightning.functional.products import add_product, product

CPU_CHUNK_ELEMENTS = 2**23
"""Logits that exist at a time where no ``chunk_size`` is given: 32 MiB, near the cache's size."""

ACCELERATOR_CHUNK_ELEMENTS = 2**26
"""The same on an accelerator, where a small product leaves it idle: 256 MiB."""

MIN_CHUNK_ROWS = 64
"""However large the vocabulary: each chunk reads the whole output weight."""


class TokenStats(NamedTuple):
    """What a policy makes of each token."""

    logps: Tensor
    """Log-probability of the token, ``(N,)``, nats, float32 at least."""
    entropy: Tensor
    """Entropy of the distribution it was drawn from, ``(N,)``, nats."""


def token_logps(
    hidden: Tensor,
    output_weight: Tensor,
    token_ids: Tensor,
    *,
    temperature: float = 1.0,
    chunk_size: int | None = None,
    bias: Tensor | None = None,
    num_rows: int = 0,
) -> TokenStats:
    """Score tokens by the hidden states that predict them.

    logps = log_softmax((h W^T + b) / temperature)[token],
    entropy = -sum_v p_v log p_v

    Gradients reach ``hidden``, ``output_weight`` and ``bias``, through both results; a result that
    does not enter the loss costs nothing in backward.

    Args:
        hidden: Last hidden states, ``(N, H)``: row i is the state *before* token i.
        output_weight: The output head's weight, ``(V, H)``, a plain tensor (a sharded one must be
            gathered first).
        token_ids: Tokens to score, ``(N,)``, in ``[0, V)``.
        temperature: Divides the logits, above 0.
        chunk_size: Rows whose logits exist at a time; by default as many as fill 32 MiB on a
            CPU and 256 MiB elsewhere.
        bias: The output head's bias, ``(V,)``.
        num_rows: Rows of all calls whose results one backward pass goes through, if there are
            more calls than this: only if all of them are one chunk are logits kept for backward.

    Returns:
        Log-probabilities and entropies, ``(N,)``.

    Raises:
        UserError: If the temperature is not above 0, the chunk is empty or the shapes do not fit.

    Source: Wijmans et al. 2024, arXiv:2411.09009 (logits need not exist); the entropy's gradient,
    dH/dz_v = -p_v (log p_v + H), follows from its definition.
    """
    if not temperature > 0:
        raise UserError(f"token_logps.temperature must be above 0, got {temperature!r}")
    if chunk_size is not None and chunk_size < 1:
        raise UserError(f"token_logps.chunk_size must be at least 1, got {chunk_size!r}")
    if hidden.shape != (len(token_ids), output_weight.shape[1]):
        raise UserError(
            f"token_logps.hidden must be (N, H) = ({len(token_ids)}, {output_weight.shape[1]}), "
            f"got {tuple(hidden.shape)}"
        )
    device = hidden.device.type
    dtype = output_weight.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    elements = CPU_CHUNK_ELEMENTS if device == "cpu" else ACCELERATOR_CHUNK_ELEMENTS
    rows = chunk_size or max(MIN_CHUNK_ROWS, elements // output_weight.shape[0])
    logps, entropy = _ChunkedLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden.to(dtype),
        output_weight.to(dtype),
        None if bias is None else bias.to(dtype),
        token_ids,
        1 / temperature,
        rows,
        0 < len(hidden) <= rows and num_rows <= rows,
    )
    return TokenStats(logps, entropy)


def selective_log_softmax(logits: Tensor, token_ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Score tokens by logits that exist already.

    log_softmax(logits / temperature)[token]

    Args:
        logits: ``(..., V)``.
        token_ids: Tokens to score, ``(...)``.
        temperature: Divides the logits, above 0.

    Returns:
        Log-probabilities, ``(...)``, nats, float32 at least.

    Raises:
        UserError: If the temperature is not above 0.
    """
    if not temperature > 0:
        raise UserError(f"selective_log_softmax.temperature must be above 0, got {temperature!r}")
    scaled = logits.to(_softmax_dtype(logits.dtype)) / temperature
    chosen = scaled.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    return chosen - scaled.logsumexp(dim=-1)


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        token_ids: Tensor,
        scale: float,
        rows: int,
        is_kept: bool,
    ) -> tuple[Tensor, Tensor]:
        logps = hidden.new_empty(len(hidden), dtype=_softmax_dtype(hidden.dtype))
        entropy, normalisers = torch.empty_like(logps), torch.empty_like(logps)
        space = _Workspace(hidden, weight, bias, scale, rows)
        for start in range(0, len(hidden), rows):
            chunk = slice(start, start + rows)
            logits, log_probs = space.logits(chunk), space.spare(chunk)
            torch.log_softmax(logits, dim=-1, out=log_probs)
            chosen = token_ids[chunk, None]
            logps[chunk] = log_probs.gather(1, chosen).squeeze(1)
            normalisers[chunk] = logits.gather(1, chosen).squeeze(1) - logps[chunk]
            probs = torch.exp(log_probs, out=logits)
            entropy[chunk] = -torch.linalg.vecdot(probs, log_probs)
        # A single chunk stays within the bound that chunks are for: it need not be computed again.
        kept = space.spare(slice(None)) if is_kept else None
        ctx.save_for_backward(hidden, weight, bias, token_ids, normalisers, entropy, kept)
        ctx.scale, ctx.rows = scale, rows
        ctx.set_materialize_grads(False)
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, logps_grad: Tensor | None, entropy_grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, token_ids, normalisers, entropy, kept = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        hidden_grad = torch.empty_like(hidden) if needs_hidden else None
        # Chunks add up in float32: many of them would drown in bfloat16.
        weight_grad = torch.zeros_like(weight, dtype=entropy.dtype) if needs_weight else None
        bias_grad = torch.zeros_like(bias, dtype=entropy.dtype) if needs_bias else None
        pull = torch.zeros_like(entropy) if logps_grad is None else logps_grad * ctx.scale
        space = _Workspace(hidden, weight, bias, ctx.scale, ctx.rows)
        for start in range(0, len(hidden), ctx.rows):
            chunk = slice(start, start + ctx.rows)
            # With p = exp(log_probs): dlogp/dz_v = [v is the token] - p_v.
            log_probs, grad = kept, None
            if log_probs is None:
                grad = log_probs = space.logits(chunk).sub_(normalisers[chunk, None])
            push = -pull[chunk, None]
            if entropy_grad is not None:  # dH/dz_v = -p_v (log p_v + H)
                surprise = torch.add(log_probs, entropy[chunk, None], out=space.spare(chunk))
                push = surprise.mul_(-ctx.scale * entropy_grad[chunk, None]).add_(push)
            grad = torch.exp(log_probs, out=grad).mul_(push)
            grad.scatter_add_(1, token_ids[chunk, None], pull[chunk, None])
            if bias_grad is not None:
                bias_grad += grad.sum(dim=0)
            grad = grad.to(weight.dtype)
            if hidden_grad is not None:
                hidden_grad[chunk] = product(grad, weight.T)
            if weight_grad is not None:
                add_product(weight_grad, grad.T, hidden[chunk].T)
        return (
            hidden_grad,
            None if weight_grad is None else weight_grad.to(weight.dtype),
            None if bias_grad is None else bias_grad.to(weight.dtype),
            None,
            None,
            None,
            None,
        )


class _Workspace:
    """Makes logits chunk by chunk; the second buffer that they are worked on with is one for all.

    Fresh memory for each would be paged in each time, which on a CPU costs more than the softmax.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, rows: int
    ) -> None:
        self.hidden, self.weight, self.bias, self.scale = hidden, weight, bias, scale
        self.rows = min(rows, len(hidden))
        self._spare: Tensor | None = None

    def logits(self, chunk: slice) -> Tensor:
        """Compute a chunk's logits over temperature."""
        # The caller's autocast may be on in forward and off in backward: both must round alike.
        with torch.autocast(self.hidden.device.type, enabled=False):
            logits = product(self.hidden[chunk], self.weight)
        logits = logits.to(_softmax_dtype(logits.dtype))
        if self.bias is not None:
            logits += self.bias
        return logits if self.scale == 1 else logits.mul_(self.scale)

    def spare(self, chunk: slice) -> Tensor:
        """Take the second buffer, which exists once it is asked for."""
        if self._spare is None:
            dtype = _softmax_dtype(self.weight.dtype)
            self._spare = self.weight.new_empty((self.rows, len(self.weight)), dtype=dtype)
        return self._spare[: len(self.hidden[chunk])]


def _softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
