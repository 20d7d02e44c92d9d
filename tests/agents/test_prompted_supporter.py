from typing import Any

from rlff_lightning.agents.prompted_supporter import PromptedSupporter
from rlff_lightning.types import Conversation, Message


def conversation(seed: int) -> Conversation:
    return Conversation(
        id=f"c{seed}", seed=seed, messages=(Message(role="seeker", text="I am sad."),)
    )


def test_all_conversations_are_replied_to_in_one_call_each_by_its_own_seed(written: Any) -> None:
    model = written("Why?", "Since when?")
    supporter = PromptedSupporter(model, temperature=0.3, max_tokens=7)
    replies = supporter.reply([conversation(1), conversation(2)])
    assert [reply.text for reply in replies] == ["Why?", "Since when?"]
    assert {reply.role for reply in replies} == {"supporter"}
    (one, sampling), (other, _) = model.asked
    assert one.seed != other.seed
    assert (sampling.temperature, sampling.max_tokens) == (0.3, 7)
    assert supporter.counts.requests == 2


def test_counts_add_up_over_calls_and_agents_keep_their_own(written: Any) -> None:
    one = PromptedSupporter(written("a", "b"))
    other = PromptedSupporter(written("c"))
    one.reply([conversation(1)])
    one.reply([conversation(2)])
    other.reply([conversation(3)])
    assert (one.counts.prompt_tokens, other.counts.prompt_tokens) == (10, 5)


def test_the_name_tells_the_languages_apart(written: Any) -> None:
    english, german = (PromptedSupporter(written(), language=lang) for lang in ("en", "de"))
    assert english.name.startswith("written; supporter.en ")
    assert english.fingerprint != german.fingerprint


def test_only_a_supporter_without_warmth_is_greedy(written: Any) -> None:
    assert PromptedSupporter(written(), temperature=0.0).is_greedy
    assert not PromptedSupporter(written()).is_greedy
