"""Response quality as `test`: replies to held-out contexts beside the human's."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from typing_extensions import override

from rlff_lightning.agents.base import Supporter
from rlff_lightning.agents.reply_judge import ReplyJudge
from rlff_lightning.data.replies import Example, Replies
from rlff_lightning.errors import UserError
from rlff_lightning.metrics.quality import ReferenceLikeness, ReplyForm
from rlff_lightning.metrics.quality_bert import BertScore
from rlff_lightning.metrics.quality_strategy import gold_strategies
from rlff_lightning.metrics.quality_text import (
    Likeness,
    meteor_with_synonyms,
    meteor_without_synonyms,
)
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.modules.goal_settings import identify
from rlff_lightning.modules.quality_files import print_quality, write_quality, write_replies
from rlff_lightning.modules.quality_judging import (
    Judged,
    comparison_figures,
    judge_replies,
    rating_figures,
)
from rlff_lightning.modules.quality_work import ContextWork
from rlff_lightning.modules.samples import ELSEWHERE, HUMAN
from rlff_lightning.modules.unfinished import UnfinishedRows, fingerprint, read_message
from rlff_lightning.seeds import derive_seed
from rlff_lightning.simulation.transcripts import remove_rank_files
from rlff_lightning.types import Conversation, Message


class QualityModule(LightningModule):
    """Let policies reply once to every held-out context and compare with what the human said.

    The human's own replies are the yardstick of length and variety, and a human's reply to another
    context that of likeness: what is no more like the right reply than that one does not fit.

    A run that was stopped goes on where it was, unless the policies, the judge or the contexts
    have changed.

    Args:
        policies: Supporters by name, each as it is set up (greedy, unless it says otherwise).
        strategies: Strategies to tell apart; ``None`` takes those that the held-out human replies
            name. A reply follows the one that it or its reasoning names.
        use_wordnet: Give METEOR with its synonym stage, which needs NLTK's WordNet data, instead
            of the exact and stem stages alone.
        bert_model: Encoder for BERTScore, a folder or a hub name; none without it.
        batch_size: Contexts that a policy replies to, and a judge judges, at once per process.
        judge: Rates every reply, the human's ones too, and compares supporters two by two; none
            without it.
        comparisons: Names of the two supporters of each comparison, ``human`` and
            ``human_elsewhere`` among them; ``None`` compares every two policies.
        notes: What a reader must know to judge the figures; written with them.
    """

    def __init__(
        self,
        policies: dict[str, Supporter],
        strategies: list[str] | None = None,
        use_wordnet: bool = False,
        bert_model: Backbone | None = None,
        batch_size: int = 64,
        judge: ReplyJudge | None = None,
        comparisons: list[tuple[str, str]] | None = None,
        notes: list[str] | None = None,
    ) -> None:
        super().__init__()
        if not policies:
            raise UserError("QualityModule.policies must name a supporter, got none")
        if taken := sorted({HUMAN, ELSEWHERE} & set(policies)):
            raise UserError(f"QualityModule.policies must not be named {taken[0]!r}")
        if batch_size < 1:
            raise UserError(f"QualityModule.batch_size must be at least 1, got {batch_size!r}")
        self.policies = policies
        self.strategies = strategies
        self.use_wordnet = use_wordnet
        self.bert_model = bert_model
        self.batch_size = batch_size
        self.judge = judge
        self.comparisons = self._checked(comparisons)
        self.notes = notes or []
        self._places: list[int] = []
        self._num_seen = 0

    def _checked(self, comparisons: list[tuple[str, str]] | None) -> list[tuple[str, str]]:
        if comparisons is None:
            return list(combinations(self.policies, 2)) if self.judge else []
        if self.judge is None:
            raise UserError("QualityModule.comparisons need a judge, got none")
        known = [*self.policies, HUMAN, ELSEWHERE]
        for pair in comparisons:
            if pair[0] == pair[1] or not set(pair) <= set(known):
                raise UserError(
                    "QualityModule.comparisons must each name two different supporters of "
                    f"{', '.join(known)}, got {list(pair)}"
                )
        return comparisons

    @override
    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        # Records hold no tensors, and Lightning refuses to look into frozen ones.
        return batch

    @override
    def on_test_start(self) -> None:
        if not isinstance(getattr(self.trainer, "datamodule", None), Replies):
            raise UserError("QualityModule needs data of rlff_lightning.data.replies")
        if not self._examples:
            raise UserError("QualityModule needs a held-out context, got none; raise val_fraction")
        self._places, self._num_seen = [], 0
        agents: list[Supporter | ReplyJudge] = [*self.policies.values()]
        for agent in (*agents, *([self.judge] if self.judge else [])):
            agent.start()

    @property
    def _examples(self) -> Sequence[Example]:
        """All held-out examples, the same on every rank."""
        loader = self.trainer.test_dataloaders
        assert loader is not None
        examples: Sequence[Example] = loader.dataset.records
        return examples

    @override
    def test_step(self, batch: Sequence[Example], batch_idx: int) -> None:
        # The Trainer deals examples out by turns, and repeats the first to give every rank as many.
        dealt = range(self._num_seen, self._num_seen + len(batch))
        places = [self.global_rank + number * self.trainer.world_size for number in dealt]
        self._places += [place for place in places if place < len(self._examples)]
        self._num_seen += len(batch)

    @override
    def on_test_epoch_end(self) -> None:
        examples = [self._examples[place] for place in self._places]
        contexts = [context for context, _ in examples]
        folder = Path(self.trainer.default_root_dir)
        store, work = self._work(folder)
        replies = {name: self._reply(name, contexts, work) for name in self.policies}
        replies[HUMAN] = [reply for _, reply in examples]
        replies[ELSEWHERE] = [self._elsewhere(place) for place in self._places]
        judged = self._judge(contexts, replies, work)
        if self.trainer.is_global_zero:
            remove_rank_files(folder / "replies")
        self.trainer.strategy.barrier()
        write_replies(examples, replies, judged, folder, self.global_rank)
        summary = self._summary(examples, replies, judged)
        if self.trainer.is_global_zero:
            write_quality(summary, folder)
            store.clear()
            print_quality(summary, folder)

    def _work(self, folder: Path) -> tuple[UnfinishedRows, ContextWork]:
        examples = [(asdict(context), asdict(reply)) for context, reply in self._examples]
        store = UnfinishedRows(
            folder,
            fingerprint(policies=self.policies, judge=self.judge, examples=json.dumps(examples)),
        )
        work = ContextWork(
            store,
            self._places,
            self.batch_size,
            rank=self.global_rank,
            is_shown=self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None,
        )
        # Before another process keeps its first batch.
        self.trainer.strategy.barrier()
        return store, work

    def _reply(
        self, name: str, contexts: Sequence[Conversation], work: ContextWork
    ) -> list[Message]:
        policy = self.policies[name]
        rows = work.run(
            f"replies of {name}",
            lambda batch: [asdict(m) for m in policy.reply([contexts[i] for i in batch])],
            lambda _, row: not row["failure"],
        )
        # One engine at a time.
        policy.close()
        return [read_message(row) for row in rows]

    def _judge(
        self,
        contexts: Sequence[Conversation],
        replies: dict[str, list[Message]],
        work: ContextWork,
    ) -> Judged | None:
        if self.judge is None:
            return None
        judged = judge_replies(self.judge, contexts, replies, self.comparisons, work)
        self.judge.close()
        return judged

    def _elsewhere(self, place: int) -> Message:
        count = len(self._examples)
        return self._examples[(place + count // 2) % count][1]

    def _summary(
        self,
        examples: Sequence[Example],
        replies: dict[str, list[Message]],
        judged: Judged | None,
    ) -> dict[str, Any]:
        dialogues = torch.tensor(
            [derive_seed(context.source) for context, _ in examples], dtype=torch.int64
        )
        names = self.strategies if self.strategies is not None else self._gold_names()
        likenesses = self._likenesses()
        figures: dict[str, dict[str, float]] = {}
        for supporter, said in replies.items():
            form = ReplyForm(names).to(self.device)
            form.update(said, dialogues)
            figures[supporter] = form.compute()
            if supporter != HUMAN:
                figures[supporter] |= self._likeness(
                    ReferenceLikeness(likenesses, names), said, replies[HUMAN], dialogues
                )
            if judged is not None:
                figures[supporter] |= rating_figures(
                    judged.ratings[supporter], dialogues, self.device
                )
        # Each process was dealt as many, fewer than there are under limit_test_batches.
        shown = self._examples[: self._num_seen * self.trainer.world_size]
        summary: dict[str, Any] = {
            "contexts": len(shown),
            "dialogues": len({context.source for context, _ in shown}),
            "supporters": figures,
            "strategies": names,
            "measures": self._measures(),
            "notes": self.notes,
        }
        if self.judge is not None and judged is not None:
            summary["judge"] = identify(self.judge)
            summary["comparisons"] = [
                comparison_figures(compared, dialogues, self.device)
                for compared in judged.comparisons
            ]
        return summary

    def _likeness(
        self,
        likeness: ReferenceLikeness,
        said: Sequence[Message],
        human: Sequence[Message],
        dialogues: Tensor,
    ) -> dict[str, float]:
        likeness.to(self.device).update(said, human, dialogues)
        return likeness.compute()

    def _gold_names(self) -> list[str]:
        return sorted({name for _, reply in self._examples for name in gold_strategies(reply)})

    def _likenesses(self) -> dict[str, Likeness]:
        likenesses: dict[str, Likeness] = {}
        if self.use_wordnet:
            likenesses["meteor"] = meteor_with_synonyms
        else:
            likenesses["meteor_no_synonyms"] = meteor_without_synonyms
        if self.bert_model is not None:
            model = self.bert_model.build_trunk().eval().to(self.device)
            limit = int(getattr(model.config, "max_position_embeddings", 512))
            likenesses["bert_score"] = BertScore(model, self.bert_model.tokenizer(), limit)
        return likenesses

    def _measures(self) -> dict[str, str]:
        """Say which definition each figure follows, for it decides the number."""
        stages = "exact, stem and synonym stages" if self.use_wordnet else "exact and stem stages"
        measures = {
            "bleu": "of the corpus, sacrebleu's 13a words, lower-cased, not smoothed",
            "rouge_l": "F1 per reply, words of letters and digits, lower-cased, not stemmed",
            "meteor": f"per reply, NLTK, {stages}",
            "distinct": "over all replies together, NLTK's wordpunct words, lower-cased",
            "repetition": "share of a reply's word triples that it has said before",
            "strategy_accuracy": "the strategy that a reply names is one that the human chose",
        }
        if self.judge is not None:
            measures["judged"] = "1 (not at all) to 5 (very much so), a question per dimension"
        if self.bert_model is not None:
            name = self.bert_model.model_name_or_path
            measures["bert_score"] = f"F1 per reply, last layer of {name}, no idf, not rescaled"
        return measures
