from collections.abc import Sequence
from pathlib import Path

import pytest

from rlff_lightning.agents.counts import Counts
from rlff_lightning.agents.language_model import LanguageModelSupporter
from rlff_lightning.dialogue.chat import ChatFormat, ChatSettings
from rlff_lightning.engines.base import Completion, Sampling
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.types import Conversation, Message


class WrittenEngine(TransformersEngine):
    """Gives written texts, one after another; ``…`` ends one that ran into the limit."""

    def __init__(self, folder: Path, *texts: str) -> None:
        super().__init__(str(folder), max_model_len=256)
        self.texts = list(texts)
        self.asked: list[tuple[int, float]] = []

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        self.asked += [(seed, sampling.temperature) for seed in seeds]
        texts = [self.texts.pop(0) for _ in prompts]
        return [
            Completion(
                token_ids=(1, 2),
                logps=(),
                text=text.removesuffix("…"),
                is_finished=not text.endswith("…"),
            )
            for text in texts
        ]


def conversations(count: int) -> list[Conversation]:
    said = (Message(role="seeker", text="I am sad."),)
    return [Conversation(id="c", messages=said, seed=seed) for seed in range(count)]


def test_a_trained_policy_counts_what_it_reads_and_samples(pocket_folder: Path) -> None:
    supporter = LanguageModelSupporter(
        TransformersEngine(str(pocket_folder), max_model_len=256),
        max_tokens=8,
        max_empty_retries=0,
    )
    [conversation] = conversations(1)
    supporter.reply([conversation])
    once = supporter.counts
    prompt = ChatFormat(Backbone(str(pocket_folder)).tokenizer()).prompt_ids(conversation)
    assert (once.requests, once.prompt_tokens) == (1, len(prompt))
    assert 1 <= once.completion_tokens <= 8
    supporter.reply([conversation])
    assert supporter.counts - once == once


def test_a_trained_policy_says_only_its_own_finished_sentences(pocket_folder: Path) -> None:
    engine = WrittenEngine(
        pocket_folder,
        "<think>Seeker: ask first.</think>What happened?",
        "I see.\nSeeker: I feel much better now, thank you!",
        "<think>a</think>That is hard. Perhaps you could…",
        "Ratsuchende: Mir geht es gut.",
    )
    supporter = LanguageModelSupporter(engine)
    replies = supporter.reply(conversations(4))
    assert replies[0] == Message(
        role="supporter", text="What happened?", reasoning="Seeker: ask first."
    )
    assert [reply.text for reply in replies[1:3]] == ["I see.", "That is hard."]
    assert (supporter.counts.cut, supporter.counts.dropped) == (2, 1)


def test_an_empty_reply_of_a_trained_policy_is_asked_for_again_with_warmth(
    pocket_folder: Path,
) -> None:
    engine = WrittenEngine(pocket_folder, "Why?", "<think>no end…", "<think>a</think>", "I see.")
    supporter = LanguageModelSupporter(engine, temperature=0.0)
    replies = supporter.reply(conversations(2))
    assert [reply.text for reply in replies] == ["Why?", "I see."]
    seeds, temperatures = zip(*engine.asked, strict=True)
    assert temperatures == (0.0, 0.0, 0.7, 0.7)
    assert len(set(seeds)) == 4
    prompt = ChatFormat(Backbone(str(pocket_folder)).tokenizer()).prompt_ids(conversations(1)[0])
    assert supporter.counts == Counts(
        requests=4, prompt_tokens=4 * len(prompt), completion_tokens=8, empty=2
    )


def test_a_trained_policy_is_taken_at_its_word_where_it_has_no_better_one(
    pocket_folder: Path,
) -> None:
    engine = WrittenEngine(pocket_folder, "No end to this…", "<think>a", "<think>b", "Seeker:")
    supporter = LanguageModelSupporter(engine, max_empty_retries=2)
    fragment, silence = supporter.reply(conversations(2))
    assert fragment == Message(role="supporter", text="No end to this")
    assert (silence.text, silence.failure) == ("", "")
    assert (supporter.counts.empty, supporter.counts.failures) == (3, 0)


def test_a_conversation_that_is_too_long_fails_alone(pocket_folder: Path) -> None:
    engine = WrittenEngine(pocket_folder, "Why?", "I see.")
    supporter = LanguageModelSupporter(engine, ChatSettings(max_prompt_tokens=40))
    first, long, last = conversations(3)
    said = (Message(role="seeker", text="I am sad. " * 20),)
    long = Conversation(id="long", messages=said)
    replies = supporter.reply([first, long, last])
    assert [reply.text for reply in replies] == ["Why?", "", "I see."]
    assert [bool(reply.failure) for reply in replies] == [False, True, False]
    assert replies[1].failure.startswith("conversation 'long': prompt must have at most max_prompt")
    assert (supporter.counts.requests, supporter.counts.failures) == (2, 1)


def test_retries_below_none_are_refused(pocket_folder: Path) -> None:
    with pytest.raises(ValueError, match="max_empty_retries must be at least 0, got -1"):
        LanguageModelSupporter(WrittenEngine(pocket_folder), max_empty_retries=-1)
