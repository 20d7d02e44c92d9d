"""Log-probabilities of groups: what the policy now thinks of every completion token."""

import torch
from torch import Tensor, nn

from rlff_lightning.functional.log_probs import TokenStats, token_logps
from rlff_lightning.models.group_inputs import Sharing, group_inputs
from rlff_lightning.models.output_head import head_replaced, output_head

__all__ = ["Sharing", "group_logps"]


def group_logps(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    *,
    temperature: float = 1.0,
    sharing: Sharing = "auto",
    with_entropy: bool = False,
    chunk_size: int | None = None,
) -> TokenStats:
    """Score completion tokens given their prompt, with gradient where the caller wants it.

    Args:
        model: A causal language model of transformers, or a PEFT model around one.
        prompt_ids: One prompt per group, left-padded, ``(N, P)``.
        prompt_mask: ``True`` at prompt tokens, ``(N, P)``.
        completion_ids: G completions per prompt, right-padded, siblings adjacent, ``(N * G, T)``.
        completion_mask: ``True`` at completion tokens, ``(N * G, T)``.
        temperature: Divides the logits before the softmax.
        sharing: How a group's prompt is computed; all ways agree to rounding.
        with_entropy: The entropy enters the loss; otherwise it is without gradient.
        chunk_size: Tokens whose logits exist at once; by default as many as `token_logps` takes.

    Returns:
        ``logps`` and ``entropy``, both ``(N * G, T)`` in nats, 0 where the completion mask is
        false.

    Raises:
        ValueError: If the shapes disagree, a prompt is empty, or padding is on the wrong side.
        UserError: If ``sharing`` is ``shared`` and the model's attention does not allow it.
    """
    head = output_head(model)
    groups = group_inputs(model, sharing, prompt_ids, prompt_mask, completion_ids, completion_mask)
    tokens = completion_ids[completion_mask]

    def score(hidden: Tensor) -> Tensor:
        """Return ``(2, M)``: log-probability and entropy of each real completion token."""
        stats = token_logps(
            # Not by [...]: its backward adds up row by row on one thread, a prompt's end G times.
            hidden.flatten(0, 1).index_select(0, groups.predictors),
            head.weight,
            tokens,
            temperature=temperature,
            chunk_size=chunk_size,
            bias=head.bias,
        )
        return torch.stack([stats.logps, stats.entropy if with_entropy else stats.entropy.detach()])

    with head_replaced(head, score):
        logps, entropy = model(**groups.inputs, use_cache=False).logits
    return TokenStats(_spread(logps, completion_mask), _spread(entropy, completion_mask))


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Put one value per real token back where the mask is true."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
