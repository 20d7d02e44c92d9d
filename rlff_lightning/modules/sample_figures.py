"""What can be said of sampled replies without asking anybody: rewards, form and variety."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlff_lightning.dialogue.reply_format import is_well_formed
from rlff_lightning.functional.diversity import distinct
from rlff_lightning.metrics.by_dialogue import mean_by_dialogue
from rlff_lightning.rollout.scorers import Sampled
from rlff_lightning.seeds import derive_seed


def describe_samples(samples: Sequence[Sampled], terms: dict[str, Tensor]) -> dict[str, Any]:
    """Summarise the replies of one supporter.

    Args:
        samples: One reply per context, N.
        terms: Terms of the reward by name, unweighted, ``(N,)`` each.

    Returns:
        ``replies``; ``rewards`` with ``mean`` and ``ci95`` over dialogues of each term;
        ``well_formed``, the share that ended by itself as one reasoning and one reply;
        ``distinct_1`` and ``distinct_2``; ``distinct_replies``, the share of different texts;
        ``mean_words``; ``reasoning``, the share of the commonest reasonings.
    """
    texts = [sample.reply.text.lower().split() for sample in samples]
    reasonings = Counter(sample.reply.reasoning or "(none)" for sample in samples)
    fine = [sample.is_finished and is_well_formed(sample.text) for sample in samples]
    return {
        "replies": len(samples),
        "rewards": {name: mean_with_interval(samples, values) for name, values in terms.items()},
        "well_formed": sum(fine) / len(samples),
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "distinct_replies": len({tuple(text) for text in texts}) / len(samples),
        "mean_words": sum(map(len, texts)) / len(samples),
        "reasoning": {
            name: count / len(samples) for name, count in reasonings.most_common(_REASONINGS)
        },
    }


def mean_with_interval(samples: Sequence[Sampled], values: Tensor) -> dict[str, Any]:
    """Give ``mean`` and ``ci95`` over dialogues of a number per reply, ``(N,)``."""
    dialogues = torch.tensor([derive_seed(sample.context.source) for sample in samples])
    mean = mean_by_dialogue(values.double(), dialogues)
    is_bounded = mean.high < torch.inf
    return {"mean": mean.value, "ci95": [mean.low, mean.high] if is_bounded else None}


_REASONINGS = 10
