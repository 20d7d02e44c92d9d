"""Records of experience: the sampled groups, and the micro-batches that are trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlff_lightning.engines.base import Completion


class Experience(NamedTuple):
    """A micro-batch of whole groups. N groups, G siblings each, B = N * G rows."""

    prompt_ids: Tensor
    """Left-padded, ``(N, P)``, int64."""
    prompt_mask: Tensor
    """``True`` at prompt tokens, ``(N, P)``."""
    completion_ids: Tensor
    """As sampled, right-padded, siblings adjacent, ``(B, T)``, int64."""
    completion_mask: Tensor
    """``True`` up to and including end-of-sequence, ``(B, T)``."""
    sampling_logps: Tensor
    """The engine's log-probabilities at sampling temperature, ``(B, T)``, nats."""
    advantages: Tensor
    """``(B,)``."""
    old_logps: Tensor | None
    """The trainer's at rollout, ``(B, T)``; ``None`` with one update per rollout, unless the reward
    holds a KL."""
    ref_logps: Tensor | None
    """The reference's, ``(B, T)``; ``None`` without a KL term."""
    window: Tensor
    """What the loss is divided by: the size of this update on all ranks, a scalar."""


def collate(
    prompts: list[list[int]],
    groups: list[list[Completion]],
    advantages: Tensor,
    window: Tensor,
) -> Experience:
    """Pad groups into one micro-batch.

    Args:
        prompts: Token ids of every group's prompt.
        groups: The completions of every prompt, G each.
        advantages: One per completion, ``(B,)``.
        window: Size of the whole update; see ``Experience.window``.

    Returns:
        The micro-batch without trainer log-probabilities.
    """
    completions = [completion for group in groups for completion in group]
    prompt_ids, prompt_mask = pad(prompts, left=True)
    completion_ids, completion_mask = pad([completion.token_ids for completion in completions])
    logps = [torch.tensor(completion.logps) for completion in completions]
    return Experience(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        sampling_logps=nn.utils.rnn.pad_sequence(logps, batch_first=True),
        advantages=advantages,
        old_logps=None,
        ref_logps=None,
        window=window,
    )


def pad(rows: Sequence[Sequence[int]], *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Pad token ids to ``(B, L)`` and tell tokens from padding, ``(B, L)`` bool."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = True
    return ids, mask
