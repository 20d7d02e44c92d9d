"""Contexts from the scripted world's corpus: what others said before, never the policy."""

from rlff_lightning.agents.scripted.corpus import write_corpus
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.dialogue.turns import reply_contexts
from rlff_lightning.rollout.contexts import DialogueContexts
from rlff_lightning.seeds import derive_seed


class CorpusContexts(DialogueContexts):
    """Contexts of the supporter turns of scripted dialogues, in a new order every round.

    Args:
        num_dialogues: How many are written.
        supporter: Author of the replies in them.
        max_messages: Latest turns kept; ``None`` keeps all.
    """

    def __init__(
        self,
        num_dialogues: int = 1000,
        supporter: MixedSupporter | None = None,
        max_messages: int | None = None,
    ) -> None:
        super().__init__([], max_messages)
        self.num_dialogues = num_dialogues
        self.supporter = supporter

    def start(self, seed: int) -> None:
        self._seed, self._taken = seed, 0
        dialogues = write_corpus(
            self.num_dialogues, seed=derive_seed(seed, "contexts"), supporter=self.supporter
        )
        self._contexts = [
            context
            for dialogue in dialogues
            for context, _ in reply_contexts(dialogue, max_messages=self.max_messages)
        ]
