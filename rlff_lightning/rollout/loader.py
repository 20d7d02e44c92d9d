"""The experience loop as a data loader: sized, resumable, and always sampled by current weights."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rlff_lightning.dialogue.chat import ChatFormat
from rlff_lightning.dialogue.reply_format import parse_reply
from rlff_lightning.engines.base import Completion, Engine, Sampling
from rlff_lightning.errors import UserError
from rlff_lightning.functional.advantages import group_advantages
from rlff_lightning.rollout.batching import balanced_parts
from rlff_lightning.rollout.contexts import ContextStream
from rlff_lightning.rollout.experience import Experience, collate
from rlff_lightning.rollout.group import Group, describe
from rlff_lightning.rollout.ranks import of_all_ranks, of_this_rank
from rlff_lightning.rollout.scorers import Sampled, Scorer
from rlff_lightning.rollout.settings import RolloutSettings
from rlff_lightning.seeds import derive_seed

NUM_PROBES = 4
"""Prompts whose tokens prove a sync."""


class Learner(ABC):
    """What the loop asks of the module that learns."""

    @abstractmethod
    def sync(self, iteration: int, probes: Sequence[list[int]]) -> dict[str, float]:
        """Give the engine the current weights and prove it on probe tokens.

        Args:
            iteration: Counts the syncs; never repeats in a run.
            probes: Token ids of a few prompts.

        Returns:
            What to log, by log key.
        """

    @abstractmethod
    def window_size(self, groups: Sequence[Group]) -> Tensor:
        """Size of an update on all ranks, which its loss is divided by."""

    @abstractmethod
    def finish(self, batch: Experience) -> Experience:
        """Add the log-probabilities that the trainer and the reference have at rollout."""


class ExperienceLoader:
    """Per iteration: sync, sample whole groups, score, form advantages, yield micro-batches.

    Args:
        learner: The module that trains on the batches.
        engine: Samples with the module's weights.
        chat: Renders contexts.
        contexts: Where they come from; a rank has a stream of its own.
        scorers: Terms of the reward.
        settings: Sizes.
        num_parts: Micro-batches per update: the Trainer's ``accumulate_grad_batches``.
        seed: Root of all draws of this rank.
    """

    def __init__(
        self,
        learner: Learner,
        engine: Engine,
        chat: ChatFormat,
        contexts: ContextStream,
        scorers: Sequence[Scorer],
        settings: RolloutSettings,
        *,
        num_parts: int,
        seed: int,
    ) -> None:
        if settings.prompts % settings.updates or settings.prompts < num_parts * settings.updates:
            raise UserError(
                f"RolloutSettings.prompts must be a multiple of updates={settings.updates} and at "
                f"least updates times accumulate_grad_batches={num_parts}, got {settings.prompts}"
            )
        self.learner = learner
        self.engine = engine
        self.chat = chat
        self.contexts = contexts
        self.scorers = scorers
        self.settings = settings
        self.num_parts = num_parts
        self.seed = seed
        self.iteration = 0
        self.report: dict[str, float] = {}
        self.groups: list[Group] = []
        self._buffer: list[Experience] = []
        self._given = 0
        contexts.start(seed)

    @property
    def batches_per_iteration(self) -> int:
        """Micro-batches of one iteration."""
        return self.settings.updates * self.num_parts

    def __len__(self) -> int:
        return self.settings.iterations_per_epoch * self.batches_per_iteration

    def __iter__(self) -> Iterator[Experience]:
        # State is advanced before each yield: a checkpoint taken while a batch is trained on
        # resumes with the next one.
        done = (self.iteration - bool(self._left)) % self.settings.iterations_per_epoch
        start = done * self.batches_per_iteration + (self._given if self._left else 0)
        for _ in range(start, len(self)):
            if not self._left:
                self._buffer, self._given = self._iterate(), 0
            self._given += 1
            yield self._buffer[self._given - 1]

    @property
    def _left(self) -> int:
        return len(self._buffer) - self._given

    def _iterate(self) -> list[Experience]:
        times: dict[str, float] = {}
        clock = _Clock(times)
        contexts = self.contexts.take(self.settings.prompts)
        prompts = [self.chat.prompt_ids(context) for context in contexts]
        report = self.learner.sync(self.iteration, prompts[:NUM_PROBES])
        clock.lap("time/sync")
        completions = self._sample(prompts)
        clock.lap("time/generate")
        samples = [
            Sampled(
                context=contexts[index // self.settings.group_size],
                text=completion.text,
                reply=parse_reply(completion.text),
                token_ids=completion.token_ids,
                is_finished=completion.is_finished,
            )
            for index, completion in enumerate(completions)
        ]
        scores = {scorer.name: scorer.weight * scorer.score(samples) for scorer in self.scorers}
        rewards = torch.stack(list(scores.values())).sum(0)
        size = self.settings.group_size
        advantages = self._advantages(rewards)
        self.groups = [
            Group(
                prompt=prompts[index],
                completions=completions[index * size : (index + 1) * size],
                samples=samples[index * size : (index + 1) * size],
                rewards={
                    name: values[index * size : (index + 1) * size].tolist()
                    for name, values in scores.items()
                },
                advantages=advantages[index * size : (index + 1) * size].tolist(),
            )
            for index in range(len(prompts))
        ]
        clock.lap("time/score")
        report |= self.contexts.observe([[s.reply for s in group.samples] for group in self.groups])
        report |= describe(self.groups)
        for scorer in self.scorers:
            report |= scorer.report()
        batches = self._batches()
        clock.lap("time/reference")
        self.report = report | times
        self.iteration += 1
        return batches

    def _advantages(self, rewards: Tensor) -> Tensor:
        """Score this rank's completions, ``(B,)``; a batch's spread is that of all ranks."""
        everywhere = [torch.tensor(values) for values in of_all_ranks(rewards.tolist())]
        advantages = group_advantages(
            torch.cat(everywhere), self.settings.group_size, scale=self.settings.advantage_scale
        )
        return of_this_rank(torch.split(advantages, [len(values) for values in everywhere]))

    def _sample(self, prompts: Sequence[list[int]]) -> list[Completion]:
        repeated = [prompt for prompt in prompts for _ in range(self.settings.group_size)]
        seeds = [
            derive_seed(self.seed, "sample", self.iteration, row) for row in range(len(repeated))
        ]
        sampling = Sampling(
            temperature=self.settings.temperature, max_tokens=self.settings.max_tokens
        )
        return self.engine.generate(repeated, sampling, seeds)

    def _batches(self) -> list[Experience]:
        updates = self.settings.updates
        share = len(self.groups) // updates
        batches = []
        for update in range(updates):
            groups = self.groups[update * share : (update + 1) * share]
            window = self.learner.window_size(groups)
            costs = [
                len(group.prompt) + sum(len(c.token_ids) for c in group.completions)
                for group in groups
            ]
            for part in balanced_parts(costs, self.num_parts):
                chosen = [groups[index] for index in part]
                batch = collate(
                    [group.prompt for group in chosen],
                    [group.completions for group in chosen],
                    torch.tensor([a for group in chosen for a in group.advantages]),
                    window,
                )
                batches.append(self.learner.finish(batch))
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Give the whole state of every rank's loop as tensors and plain values."""
        buffer = [
            {name: value.cpu() for name, value in batch._asdict().items() if value is not None}
            for batch in self._buffer
        ]
        state = {
            "iteration": self.iteration,
            "given": self._given,
            "contexts": self.contexts.state_dict(),
            "buffer": buffer,
            "seed": self.seed,
        }
        return {"ranks": of_all_ranks(state)}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Continue this rank's loop, be it in the middle of an iteration."""
        state = of_this_rank(states["ranks"])
        optional: dict[str, Any] = {"old_logps": None, "ref_logps": None}
        self.iteration, self._given = state["iteration"], state["given"]
        self._buffer = [Experience(**{**optional, **fields}) for fields in state["buffer"]]
        self.contexts.load_state_dict(state["contexts"])
        self.seed = state["seed"]


class _Clock:
    def __init__(self, times: dict[str, float]) -> None:
        self.times = times
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.times[name] = now - self.last
        self.last = now
