"""Replies of several policies to held-out contexts as `test`: sampled, scored, written to read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from typing_extensions import override

from rlff_lightning.agents.repairing import policy_repair
from rlff_lightning.dialogue.chat import ChatFormat, ChatSettings
from rlff_lightning.dialogue.reply_format import CLOSE, OPEN
from rlff_lightning.engines.base import Engine, Sampling
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.modules.sample_figures import describe_samples, mean_with_interval
from rlff_lightning.modules.sample_files import Scored, print_samples, read_quality, write_samples
from rlff_lightning.rollout.scorers import Sampled, Scorer, check_reads_text, check_scorers
from rlff_lightning.seeds import derive_seed, run_seed
from rlff_lightning.types import Conversation, Message

HUMAN, ELSEWHERE = "human", "human_elsewhere"
"""The reply that was given, and one that a human gave in another context."""


class SamplesModule(LightningModule):
    """Let policies reply once to every held-out context, beside the human who did.

    The human's reply to another context is scored as well: a reward model that values it as much
    as the right one reads the context or the style, and not whether the reply fits.

    Args:
        policies: Engines by name, each with its policy's weights; differences are taken to the
            first.
        scorers: Terms of the reward.
        chat: How conversations are shown to the policies.
        temperature: 0 is greedy.
        max_tokens: Limit of a completion.
        num_shown: Contexts, spread over all, that are written as Markdown.
        notes: What a reader must know to judge the replies; written with them.
        reward_quality: ``quality.json`` of the reward model's test, copied into the summary.
        seed: Root of every draw; ``None`` takes the run's.
    """

    def __init__(
        self,
        policies: dict[str, Engine],
        scorers: list[Scorer],
        chat: ChatSettings | None = None,
        temperature: float = 1.0,
        max_tokens: int = 256,
        num_shown: int = 12,
        notes: list[str] | None = None,
        reward_quality: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not policies or not scorers:
            raise UserError("SamplesModule must have a policy and a scorer, got none")
        check_scorers("SamplesModule", scorers)
        check_reads_text("SamplesModule", scorers)
        if taken := sorted({HUMAN, ELSEWHERE} & set(policies)):
            raise UserError(f"SamplesModule.policies must not be named {taken[0]!r}")
        self.policies = policies
        self.scorers = scorers
        self.settings = chat or ChatSettings()
        self.sampling = Sampling(temperature=temperature, max_tokens=max_tokens, with_logps=False)
        self.num_shown = num_shown
        self.notes = notes or []
        self.reward_quality = reward_quality
        self.seed = run_seed(seed)
        self._examples: list[tuple[Conversation, Message]] = []

    @override
    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1:
            raise UserError(f"SamplesModule runs in one process, got {self.trainer.world_size}")
        for scorer in self.scorers:
            scorer.start(self.device)

    @override
    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        # Records hold no tensors, and Lightning refuses to look into frozen ones.
        return batch

    @override
    def test_step(self, batch: Sequence[tuple[Conversation, Message]], batch_idx: int) -> None:
        self._examples += batch

    @override
    def on_test_epoch_end(self) -> None:
        contexts = [context for context, _ in self._examples]
        shift = len(contexts) // 2
        moved = [*self._examples[shift:], *self._examples[:shift]]
        columns = {name: self._sample(name, contexts) for name in self.policies}
        columns[HUMAN] = [_as_sampled(context, reply) for context, reply in self._examples]
        columns[ELSEWHERE] = [
            _as_sampled(context, reply) for context, (_, reply) in zip(contexts, moved, strict=True)
        ]
        scored = {name: Scored(samples, self._score(samples)) for name, samples in columns.items()}
        folder = Path(self.trainer.default_root_dir)
        summary = self._summary(scored)
        write_samples(scored, summary, folder, num_shown=self.num_shown)
        print_samples(summary, folder)

    def _sample(self, name: str, contexts: Sequence[Conversation]) -> list[Sampled]:
        engine = self.policies[name]
        chat = ChatFormat(Backbone(engine.model_name_or_path).tokenizer(), self.settings)
        prompts = [chat.prompt_ids(context) for context in contexts]
        seeds = [derive_seed(self.seed, "sample", context.id) for context in contexts]
        completions = engine.generate(prompts, self.sampling, seeds)
        engine.close()
        repair = policy_repair()
        return [
            Sampled(
                context=context,
                text=completion.text,
                reply=repair.heard(completion.text, is_finished=completion.is_finished)[0],
                token_ids=completion.token_ids,
                is_finished=completion.is_finished,
            )
            for context, completion in zip(contexts, completions, strict=True)
        ]

    @torch.no_grad()
    def _score(self, samples: Sequence[Sampled]) -> dict[str, Tensor]:
        return {scorer.name: scorer.score(samples) for scorer in self.scorers}

    def _summary(self, scored: dict[str, Scored]) -> dict[str, Any]:
        first = next(iter(self.policies))
        pairs = [(name, first) for name in list(self.policies)[1:]] + [(HUMAN, ELSEWHERE)]
        return {
            "contexts": len(self._examples),
            "supporters": {name: describe_samples(*column) for name, column in scored.items()},
            "differences": {
                f"{name} - {other}": {
                    term: mean_with_interval(
                        scored[name].samples, scored[name].terms[term] - scored[other].terms[term]
                    )
                    for term in scored[name].terms
                }
                for name, other in pairs
            },
            "reward_model": read_quality(self.reward_quality),
            "notes": self.notes,
        }


def _as_sampled(context: Conversation, reply: Message) -> Sampled:
    thought = f"{OPEN}{reply.reasoning}{CLOSE}" if reply.reasoning else ""
    return Sampled(
        context=context, text=thought + reply.text, reply=reply, token_ids=(), is_finished=True
    )
