"""The experience loop as a data loader: sized and resumable in the middle of an iteration."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rlff_lightning.agents.repairing import policy_repair
from rlff_lightning.dialogue.chat import ChatFormat
from rlff_lightning.engines.base import Engine
from rlff_lightning.errors import StoppedRun, UserError
from rlff_lightning.functional.advantages import group_advantages
from rlff_lightning.functional.kl import sequence_kl
from rlff_lightning.rollout.across_ranks import across_ranks
from rlff_lightning.rollout.batching import balanced_parts
from rlff_lightning.rollout.contexts import ContextStream
from rlff_lightning.rollout.experience import Experience, collate
from rlff_lightning.rollout.group import Group, describe
from rlff_lightning.rollout.learner import Learner
from rlff_lightning.rollout.ranks import of_all_ranks, of_same_rank, of_this_rank
from rlff_lightning.rollout.sampler import Rollout, RolloutSampler
from rlff_lightning.rollout.scorers import KL_TERM, Sampled, Scorer
from rlff_lightning.rollout.settings import RolloutSettings


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
        self.contexts = contexts
        self.scorers = scorers
        self.settings = settings
        self.num_parts = num_parts
        self.sampler = RolloutSampler(learner, engine, chat, contexts, settings, seed)
        self._repair = policy_repair()
        self.iteration = 0
        self.report: dict[str, float] = {}
        self.groups: list[Group] = []
        self._buffer: list[Experience] = []
        self._given = 0
        self._lost = 0

    @property
    def updates_per_iteration(self) -> int:
        """Optimizer steps of one iteration."""
        return self.settings.updates * self.settings.epochs

    @property
    def batches_per_iteration(self) -> int:
        """Micro-batches of one iteration."""
        return self.updates_per_iteration * self.num_parts

    def __len__(self) -> int:
        return self.settings.iterations_per_epoch * self.batches_per_iteration

    def __iter__(self) -> Iterator[Experience]:
        # State is advanced before each yield: a checkpoint taken while a batch is trained on
        # resumes with the next one.
        for _ in range(self._place, len(self)):
            if not self._left:
                self._buffer, self._given = self._iterate(), 0
            self._given += 1
            yield self._buffer[(self._given - 1) % len(self._buffer)]

    def close(self) -> None:
        """Wait for a rollout that the engine still samples."""
        self.sampler.close()

    @property
    def _left(self) -> int:
        return len(self._buffer) * self.settings.epochs - self._given

    @property
    def _place(self) -> int:
        """Batches of the epoch under way that were given: the Trainer asks for the others only."""
        whole = self.iteration - bool(self._buffer)
        given = whole * self.batches_per_iteration + self._given - self._lost
        return given % len(self)

    def _iterate(self) -> list[Experience]:
        rollout = self.sampler.take()
        clock = _Clock()
        groups, num_tidied = self._grouped(rollout)
        samples = [sample for group in groups for sample in group.samples]
        scores = {scorer.name: self._scored(scorer, samples) for scorer in self.scorers}
        report = rollout.report | {"rollout/tidied": num_tidied / len(samples)}
        report |= self.contexts.observe([[s.reply for s in group.samples] for group in groups])
        for scorer in self.scorers:
            report |= scorer.report()
        clock.lap("time/score")
        # The engine works on the next rollout from here on.
        self.sampler.go_ahead()
        clock.restart()
        parts = self._parts(groups)
        batches = [self._batch([groups[i] for i in part], window) for part, window in parts]
        rows = [self._rows(part) for part, _ in parts]
        if self.settings.reward_kl_coef:
            kl = -self.settings.reward_kl_coef * self._kl(batches, rows)
            scores[KL_TERM] = self._finite("The KL to the reference", kl)
        advantages = self._advantages(torch.stack(list(scores.values())).sum(0))
        batches = [
            batch._replace(advantages=advantages[chosen].to(batch.advantages.device))
            for batch, chosen in zip(batches, rows, strict=True)
        ]
        self.groups = [
            group._replace(
                rewards={name: values[self._rows([i])].tolist() for name, values in scores.items()},
                advantages=advantages[self._rows([i])].tolist(),
            )
            for i, group in enumerate(groups)
        ]
        clock.lap("time/reference")
        self.report = across_ranks(report | describe(self.groups) | clock.times)
        self.iteration += 1
        return batches

    def _grouped(self, rollout: Rollout) -> tuple[list[Group], int]:
        """Put completions beside their contexts, without rewards yet, and count what was tidied.

        What is trained on are the sampled tokens; what is scored and answered is the reply as an
        evaluation takes it: words in the seeker's name would earn a reward otherwise.
        """
        size = self.settings.group_size
        groups, num_tidied = [], 0
        for index, (context, prompt) in enumerate(
            zip(rollout.contexts, rollout.prompts, strict=True)
        ):
            completions = rollout.completions[index * size : (index + 1) * size]
            samples = []
            for completion in completions:
                reply, repairs = self._repair.heard(
                    completion.text, is_finished=completion.is_finished
                )
                num_tidied += bool(repairs.cut or repairs.dropped)
                samples.append(
                    Sampled(
                        context=context,
                        text=completion.text,
                        reply=reply,
                        token_ids=completion.token_ids,
                        is_finished=completion.is_finished,
                    )
                )
            groups.append(Group(prompt, completions, samples, rewards={}, advantages=[]))
        return groups, num_tidied

    def _scored(self, scorer: Scorer, samples: Sequence[Sampled]) -> Tensor:
        """Score all completions, ``(B,)``."""
        scores = scorer.weight * scorer.score(samples)
        return self._finite(f"Scorer {scorer.name}", scores)

    def _finite(self, owner: str, scores: Tensor) -> Tensor:
        """Give the scores back; what is no number would destroy the policy."""
        num_wrong = int((~scores.isfinite()).sum())
        if num_wrong:
            raise StoppedRun(
                f"{owner} gave {num_wrong} of {len(scores)} completions of iteration "
                f"{self.iteration} a reward that is not finite"
            )
        return scores

    def _parts(self, groups: Sequence[Group]) -> list[tuple[list[int], Tensor]]:
        """Spread groups over updates and micro-batches of about equally many tokens.

        Returns:
            For each micro-batch its groups' indices, and the size of its update.
        """
        share = len(groups) // self.settings.updates
        parts = []
        for start in range(0, len(groups), share):
            chosen = groups[start : start + share]
            window = self.learner.window_size(chosen)
            costs = [
                len(group.prompt) + sum(len(c.token_ids) for c in group.completions)
                for group in chosen
            ]
            for part in balanced_parts(costs, self.num_parts):
                parts.append(([start + index for index in part], window))
        return parts

    def _batch(self, groups: Sequence[Group], window: Tensor) -> Experience:
        """Collate groups with all log-probabilities; advantages come once rewards are complete."""
        return self.learner.finish(
            collate(
                [group.prompt for group in groups],
                [group.completions for group in groups],
                torch.zeros(len(groups) * self.settings.group_size),
                window,
            )
        )

    def _rows(self, groups: Sequence[int]) -> Tensor:
        """Indices of the groups' completions among all of the iteration's."""
        size = self.settings.group_size
        return (torch.tensor(groups)[:, None] * size + torch.arange(size)).flatten()

    def _kl(self, batches: Sequence[Experience], rows: Sequence[Tensor]) -> Tensor:
        """Estimate the trainer's KL to the reference by completion, ``(B,)``.

        Not the engine's: what an engine in few bits or of stale weights differs by is no KL.
        """
        found = torch.empty(sum(map(len, rows)))
        for batch, chosen in zip(batches, rows, strict=True):
            assert batch.ref_logps is not None
            assert batch.old_logps is not None
            estimate = sequence_kl(
                batch.old_logps,
                batch.ref_logps,
                batch.completion_mask,
                self.settings.reward_kl_estimator,
            )
            found[chosen] = estimate.to("cpu", found.dtype)
        return found

    def _advantages(self, rewards: Tensor) -> Tensor:
        """Score this rank's completions, ``(B,)``; a batch's spread is that of all ranks."""
        everywhere = [torch.tensor(values) for values in of_all_ranks(rewards.tolist())]
        advantages = group_advantages(
            torch.cat(everywhere), self.settings.group_size, scale=self.settings.advantage_scale
        )
        return of_this_rank(torch.split(advantages, [len(values) for values in everywhere]))

    def state_dict(self) -> dict[str, Any]:
        """Give the whole state of every rank's loop as tensors and plain values."""
        buffer = [
            {name: value.cpu() for name, value in batch._asdict().items() if value is not None}
            for batch in self._buffer
        ]
        own = {
            "iteration": self.iteration,
            "given": self._given,
            "lost": self._lost,
            "buffer": buffer,
            "report": self.report,
        }
        return {"ranks": of_all_ranks(own | self.sampler.state_dict())}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Continue this rank's loop, be it in the middle of an iteration.

        If another number of processes saved it, what they had sampled is theirs: every process
        then begins a new iteration, with new streams of contexts, in the middle of the epoch.
        """
        state = of_same_rank(states["ranks"])
        first = states["ranks"][0]
        self._lost = first.get("lost", 0)
        if state is None:
            self.iteration = first["iteration"]
            self._lost += len(first["buffer"]) * self.settings.epochs - first["given"]
            self._buffer, self._given = [], 0
            self.sampler.restart(first["rollouts"])
            return
        optional: dict[str, Any] = {"old_logps": None, "ref_logps": None}
        self.iteration, self._given = state["iteration"], state["given"]
        self._buffer = [Experience(**{**optional, **fields}) for fields in state["buffer"]]
        self.report = state.get("report", {})
        self.sampler.load_state_dict(state)


class _Clock:
    """Seconds between laps, by log key."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.times[name] = now - self.last
        self.last = now
