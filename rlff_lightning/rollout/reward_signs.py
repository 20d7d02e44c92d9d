"""Signs that a reward is won by form: how its terms go with length, repeats and format."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlff_lightning.dialogue.reply_format import is_well_formed
from rlff_lightning.rollout.scorers import Sampled, repeated_share

_SIZE = 3
"""Words of the n-grams whose repeats are counted."""


def reward_signs(
    groups: Sequence[Sequence[Sampled]], rewards: Sequence[Mapping[str, Sequence[float]]]
) -> dict[str, float]:
    """Correlate every term of the reward with what a policy could cheaply change.

    Each is measured within its group, since that is what a policy learns from: of the term and of
    the form, the group's mean is taken off before the correlation over all samples.

    Args:
        groups: Samples of each context, G each.
        rewards: Terms of each group by name, G each.

    Returns:
        ``rollout/corr/<term>/length`` (tokens), ``…/repetition`` (share of repeated 3-grams) and
        ``…/format`` (1 if it ended by itself as one reasoning and one reply); 0 where either does
        not vary. The terms of those names are not held against themselves.
    """
    forms = {
        "length": [[float(len(sample.token_ids)) for sample in group] for group in groups],
        "repetition": [[repeated_share(s.reply.text, _SIZE) for s in group] for group in groups],
        "format": [
            [float(s.is_finished and is_well_formed(s.text)) for s in group] for group in groups
        ],
    }
    return {
        f"rollout/corr/{term}/{name}": _within_groups([own[term] for own in rewards], form)
        for term in rewards[0]
        for name, form in forms.items()
        if name != term
    }


def _within_groups(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    x, y = _centred(one), _centred(other)
    scale = (x.square().sum() * y.square().sum()).sqrt()
    return (x @ y / scale).item() if scale > _LEAST else 0.0


def _centred(groups: Sequence[Sequence[float]]) -> Tensor:
    rows = [torch.tensor(group, dtype=torch.float64) for group in groups]
    return torch.cat([row - row.mean() for row in rows])


_LEAST = 1e-9
"""Below this, what varies is rounding."""
