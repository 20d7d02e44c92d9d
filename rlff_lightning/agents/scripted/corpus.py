"""Dialogues of the scripted world, for a model to learn its language from."""

from rlff_lightning.agents.base import Cast
from rlff_lightning.agents.scripted.dynamics import Temperament
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.agents.self_play import play
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Dialogue


def write_corpus(
    num_dialogues: int,
    *,
    seed: int,
    supporter: MixedSupporter | None = None,
    max_turns: int = 8,
    temperament: Temperament | None = None,
) -> list[Dialogue]:
    """Play dialogues between scripted seekers and a supporter of limited skill.

    Args:
        num_dialogues: How many.
        seed: The same seed gives the same dialogues.
        supporter: Author of the replies.
        max_turns: Supporter turns of a dialogue.
        temperament: The seekers'.

    Returns:
        Dialogues with reasoning and strategy on every supporter message.
    """
    people = ScriptedSeeker(temperament).open(
        [derive_seed(seed, "corpus", index) for index in range(num_dialogues)]
    )
    cast = Cast(supporter or MixedSupporter(), ScriptedSeeker(temperament), ScriptedCritic())
    episodes = play(people, cast, max_turns=max_turns)
    return [
        Dialogue(
            id=episode.conversation.id,
            messages=episode.conversation.messages,
            situation=episode.conversation.situation,
            problem=episode.conversation.problem,
        )
        for episode in episodes
    ]
