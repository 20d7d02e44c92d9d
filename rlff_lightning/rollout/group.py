"""A context with the policy's replies to it, and what to log of an iteration's groups."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from rlff_lightning.engines.base import Completion
from rlff_lightning.functional.advantages import flat_group_share
from rlff_lightning.rollout.reward_signs import reward_signs
from rlff_lightning.rollout.scorers import KL_TERM, Sampled


class Group(NamedTuple):
    """A context and what the policy made of it."""

    prompt: list[int]
    """Token ids of the context."""
    completions: list[Completion]
    """G completions."""
    samples: list[Sampled]
    """The same as text."""
    rewards: dict[str, list[float]]
    """Weighted terms by name, G each."""
    advantages: list[float]
    """G advantages."""


def describe(groups: Sequence[Group]) -> dict[str, float]:
    """Summarise an iteration's samples by log key."""
    completions = [completion for group in groups for completion in group.completions]
    lengths = torch.tensor([float(len(completion.token_ids)) for completion in completions])
    report = {
        "rollout/length": lengths.mean().item(),
        "rollout/truncated": sum(not c.is_finished for c in completions) / len(completions),
        "rollout/tokens": lengths.sum().item(),
    }
    totals = [torch.zeros(len(group.completions)) for group in groups]
    # A KL differs between any two completions: with it no group would ever be flat.
    judged = [torch.zeros(len(group.completions)) for group in groups]
    for name in groups[0].rewards:
        values = [torch.tensor(group.rewards[name]) for group in groups]
        totals = [total + value for total, value in zip(totals, values, strict=True)]
        if name != KL_TERM:
            judged = [total + value for total, value in zip(judged, values, strict=True)]
        report[f"rollout/reward/{name}"] = torch.cat(values).mean().item()
        report[f"rollout/reward_std/{name}"] = torch.cat(values).std().item()
    rewards = torch.cat(totals)
    report["rollout/reward"] = rewards.mean().item()
    report["rollout/reward_std"] = rewards.std().item()
    report["rollout/flat_groups"] = flat_group_share(torch.cat(judged), len(judged[0])).item()
    signs = reward_signs([group.samples for group in groups], [group.rewards for group in groups])
    return report | signs
