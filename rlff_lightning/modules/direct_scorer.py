"""Rewards straight from simulated conversations: no reward model stands between."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.agents.language_model import LanguageModelSupporter
from rlff_lightning.errors import UserError
from rlff_lightning.rollout.scorers import Learning, Sampled, Scorer
from rlff_lightning.simulation.futures import Candidate, FutureSettings, FutureSimulator
from rlff_lightning.types import LabelledReply


class FutureScorer(Scorer):
    """Score a reply by the futures that it leads to, simulated on the spot.

    It stands wherever a reward model's scorer can, and gives what that one was trained to predict:
    a policy can be trained without a reward model, or held against a reward that it never saw.
    With ``futures.num_futures: 0`` it is the immediate critic.

    Args:
        seeker: Answers the reply, and whatever is said after it.
        critic: Values every answer.
        supporter: Carries the futures on; by default the policy itself, with its present weights.
        futures: Number and length of the futures, and how they are summed up.
        weight: Factor of the score.

    Source: Wu et al. 2025, CollabLLM, arXiv:2502.00640, sec. 3.
    """

    name = "simulated"

    def __init__(
        self,
        seeker: Seeker,
        critic: Critic,
        supporter: Supporter | None = None,
        futures: FutureSettings | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.seeker = seeker
        self.critic = critic
        self.supporter = supporter
        self.futures = futures or FutureSettings()
        self._policy: Supporter | None = None
        self._report: dict[str, float] = {}

    def attach(self, learning: Learning) -> None:
        self._policy = LanguageModelSupporter(
            learning.engine,
            learning.chat,
            temperature=learning.sampling.temperature,
            max_tokens=learning.sampling.max_tokens,
        )

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        supporter = self.supporter or self._policy
        if supporter is None:
            raise UserError(
                "FutureScorer.supporter must be given where no policy is trained, got none"
            )
        simulator = FutureSimulator(Cast(supporter, self.seeker, self.critic), self.futures)
        labelled = simulator.label(
            [Candidate(context=sample.context, reply=sample.reply) for sample in samples]
        )
        self._report = _summary(labelled)
        return _without_gaps(labelled)

    def report(self) -> dict[str, float]:
        return self._report


def _summary(labelled: Sequence[LabelledReply]) -> dict[str, float]:
    whole = [record for record in labelled if math.isfinite(record.value)]
    futures = [future for record in whole for future in record.futures]
    errors = [record.standard_error for record in whole]
    return {
        "rollout/simulated_failures": float(len(labelled) - len(whole)),
        "rollout/simulated_success": sum(f.is_success for f in futures) / max(len(futures), 1),
        "rollout/simulated_cut": sum(f.is_cut for f in futures) / max(len(futures), 1),
        "rollout/simulated_error": sum(errors) / max(len(errors), 1),
    }


def _without_gaps(labelled: Sequence[LabelledReply]) -> Tensor:
    """Give a reply whose future was broken off its siblings' mean: it then teaches nothing."""
    known: dict[str, list[float]] = {}
    for record in labelled:
        if math.isfinite(record.value):
            known.setdefault(record.context.id, []).append(record.value)
    if labelled and not known:
        raise RuntimeError("FutureScorer: every simulated future was broken off")
    means = {name: math.fsum(values) / len(values) for name, values in known.items()}
    return torch.tensor(
        [
            record.value if math.isfinite(record.value) else means.get(record.context.id, 0.0)
            for record in labelled
        ]
    )
