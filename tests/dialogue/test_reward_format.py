from pathlib import Path

import pytest

from rlff_lightning.dialogue.reward_format import (
    RewardFormat,
    RewardInput,
    read_reward_input,
    write_reward_input,
)
from rlff_lightning.errors import UserError
from rlff_lightning.models.pocket_tokenizer import train_tokenizer
from rlff_lightning.types import Conversation, Message

TOKENIZER = train_tokenizer(["one two three four five"] * 5, 320)
REPLY = Message(role="supporter", text="five", reasoning="secret")


def context(*texts: str) -> Conversation:
    roles = ("seeker", "supporter")
    messages = tuple(Message(role=roles[n % 2], text=text) for n, text in enumerate(texts))
    return Conversation(id="c", messages=messages)


def read(settings: RewardInput, *texts: str) -> str:
    return str(TOKENIZER.decode(RewardFormat(TOKENIZER, settings).ids(context(*texts), REPLY)))


def test_context_and_reply_are_read_without_the_reasoning() -> None:
    assert read(RewardInput(), "one") == (
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\nfive<|im_end|>"
    )


def test_a_context_is_the_same_for_every_reply() -> None:
    shown = RewardFormat(TOKENIZER)
    other = Message(role="supporter", text="something much longer")
    assert shown.parts(context("one"), REPLY)[0] == shown.parts(context("one"), other)[0]


def test_a_long_input_is_an_error_that_names_the_context() -> None:
    length = len(RewardFormat(TOKENIZER).ids(context("one", "two", "three"), REPLY))
    assert read(RewardInput(max_tokens=length), "one", "two", "three")
    with pytest.raises(UserError, match=f"context 'c'.*max_tokens={length - 1} tokens, got"):
        read(RewardInput(max_tokens=length - 1), "one", "two", "three")


def test_the_oldest_messages_are_dropped_only_as_far_as_needed_and_counted() -> None:
    whole = len(RewardFormat(TOKENIZER).ids(context("two", "three"), REPLY))
    shown = RewardFormat(TOKENIZER, RewardInput(max_tokens=whole, too_long="drop_oldest"))
    long = context("one " * 30, "two", "three")
    assert len(shown.ids(long, REPLY)) <= whole
    assert shown.num_shortened == 1
    shown.ids(context("three"), REPLY)
    assert shown.num_shortened == 1
    # "two" is the supporter's now; nothing but the oldest message is gone.
    text = TOKENIZER.decode(shown.ids(long, REPLY))
    assert "one" not in text
    assert "two" in text
    assert "three" in text


def test_a_last_message_too_long_by_itself_is_an_error_even_where_older_ones_are_dropped() -> None:
    with pytest.raises(UserError, match="must have at most"):
        read(RewardInput(max_tokens=10, too_long="drop_oldest"), "one", "two", "three " * 20)


def test_only_the_latest_messages_are_read() -> None:
    assert read(RewardInput(max_messages=1), "one", "two", "three") == read(RewardInput(), "three")


@pytest.mark.parametrize("settings", [{"max_tokens": 0}, {"max_messages": 0}])
def test_limits_that_leave_nothing_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match="must be at least 1, got 0"):
        RewardInput(**settings)


def test_limits_come_back_from_the_models_folder(tmp_path: Path) -> None:
    settings = RewardInput(max_tokens=7, max_messages=3, too_long="drop_oldest")
    write_reward_input(settings, tmp_path)
    assert read_reward_input(tmp_path) == settings


def test_a_folder_without_limits_is_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no reward model: must hold reward_input"):
        read_reward_input(tmp_path)


def test_texts_read_apart_are_each_a_text_of_their_own() -> None:
    shown = RewardFormat(TOKENIZER, RewardInput(max_messages=2))
    told, latest, said = map(TOKENIZER.decode, shown.apart(context("one", "two", "three"), REPLY))
    turn = "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n"
    assert told == f"<|im_start|>assistant\ntwo<|im_end|>\n{turn}"
    assert latest == turn
    assert said == "five<|im_end|>"
    assert shown.num_shortened == 0


def test_a_context_read_apart_drops_its_oldest_messages_and_counts_that() -> None:
    texts = ("one " * 40, "two", "three")
    limit = len(RewardFormat(TOKENIZER).apart(context("two", "three"), REPLY)[0])
    with pytest.raises(UserError, match=f"at most RewardInput.max_tokens={limit} tokens, got"):
        RewardFormat(TOKENIZER, RewardInput(max_tokens=limit)).apart(context(*texts), REPLY)
    short = RewardFormat(TOKENIZER, RewardInput(max_tokens=limit, too_long="drop_oldest"))
    assert "one" not in TOKENIZER.decode(short.apart(context(*texts), REPLY)[0])
    assert short.num_shortened == 1
