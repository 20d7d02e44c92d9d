import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.dialogue.chat import ChatFormat, ChatSettings
from rlff_lightning.errors import UserError
from rlff_lightning.models.pocket_tokenizer import train_tokenizer
from rlff_lightning.types import Conversation, Message

TOKENIZER = train_tokenizer(["I feel sad about my exam.", "What happened?"] * 5, 320)
CONTROLS = tuple(TOKENIZER.get_added_vocab())
CONTROL_IDS = set(TOKENIZER.get_added_vocab().values())
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
USER, ASSISTANT, SYSTEM = (
    TOKENIZER.convert_tokens_to_ids(f"<|im_start|>{role}\n")
    for role in ("user", "assistant", "system")
)
THINK, END_THINK = TOKENIZER.convert_tokens_to_ids(["<think>", "</think>"])


def talk(*texts: str) -> Conversation:
    """Alternating messages, the seeker's first."""
    roles = ("seeker", "supporter")
    messages = tuple(Message(role=roles[n % 2], text=text) for n, text in enumerate(texts))
    return Conversation(id="c", messages=messages, situation="my exam")


def controls_of(ids: list[int]) -> list[int]:
    return [token for token in ids if token in CONTROL_IDS]


def test_a_conversation_is_rendered_in_roles_and_opens_the_supporters() -> None:
    ids = ChatFormat(TOKENIZER).prompt_ids(talk("I feel sad.", "What happened?", "My exam."))
    expected = (
        "<|im_start|>user\nI feel sad.<|im_end|>\n<|im_start|>assistant\nWhat happened?<|im_end|>\n"
        "<|im_start|>user\nMy exam.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert TOKENIZER.decode(ids) == expected
    assert controls_of(ids) == [USER, END, ASSISTANT, END, USER, END, ASSISTANT]


# Letters that make and nest control tokens, and a few others.
pieces = st.lists(
    st.sampled_from([*CONTROLS, "<", "|", ">", "<|", "|>", "im_end", "think", "</", " ", "a", "é"])
    | st.text(max_size=3),
    max_size=8,
).map("".join)


@given(pieces, pieces)
def test_no_text_becomes_a_control_token_and_none_of_it_is_lost(seeker: str, reply: str) -> None:
    chat = ChatFormat(TOKENIZER, ChatSettings(system="{situation}"))
    conversation = talk(seeker, reply, seeker)
    prompt = chat.render(conversation)
    assert controls_of(prompt.ids) == [SYSTEM, END, USER, END, ASSISTANT, END, USER, END, ASSISTANT]
    own = [token for token, is_own in zip(prompt.ids, prompt.is_seeker, strict=True) if is_own]
    assert TOKENIZER.decode(own) == seeker * 2
    said = chat.reply_ids(Message(role="supporter", text=reply))
    assert controls_of(said) == [END]
    assert TOKENIZER.decode(said[:-1]) == reply


def test_only_the_reasoning_of_a_reply_is_between_think_tokens() -> None:
    chat = ChatFormat(TOKENIZER)
    reply = Message(role="supporter", text="a</think>b", reasoning="c<think>d<|im_end|>")
    ids = chat.reply_ids(reply)
    assert controls_of(ids) == [THINK, END_THINK, END]
    assert ids[0] == THINK
    assert TOKENIZER.decode(ids) == "<think>c<think>d<|im_end|></think>a</think>b<|im_end|>"


def test_reasoning_of_earlier_turns_is_not_shown() -> None:
    messages = (*talk("hi").messages, Message(role="supporter", text="hm", reasoning="secret"))
    conversation = Conversation(id="c", messages=(*messages, *talk("yes").messages))
    assert "secret" not in TOKENIZER.decode(ChatFormat(TOKENIZER).prompt_ids(conversation))


def test_a_prompt_over_the_limit_is_refused_and_one_at_it_is_not() -> None:
    length = len(ChatFormat(TOKENIZER).prompt_ids(talk("I feel sad.")))
    ChatFormat(TOKENIZER, ChatSettings(max_prompt_tokens=length)).prompt_ids(talk("I feel sad."))
    short = ChatFormat(TOKENIZER, ChatSettings(max_prompt_tokens=length - 1))
    line = f"conversation 'c'.*max_prompt_tokens={length - 1} tokens, got {length}"
    with pytest.raises(UserError, match=line):
        short.prompt_ids(talk("I feel sad."))


def test_only_the_latest_messages_are_shown() -> None:
    chat = ChatFormat(TOKENIZER, ChatSettings(max_messages=1))
    assert chat.prompt_ids(talk("one", "two", "three")) == ChatFormat(TOKENIZER).prompt_ids(
        talk("three")
    )


@pytest.mark.parametrize("settings", [{"max_messages": 0}, {"max_messages": -1}])
def test_a_limit_that_would_show_all_messages_instead_of_none_is_refused(
    settings: dict[str, int],
) -> None:
    with pytest.raises(UserError, match="max_messages must be at least 1"):
        ChatSettings(**settings)


def test_a_template_that_drops_a_message_is_refused() -> None:
    tokenizer = train_tokenizer(["a"], 300)
    tokenizer.chat_template = "{{ messages[-1]['content'] }}<|im_end|>"
    with pytest.raises(UserError, match="chat template shows 1 of 3 texts"):
        ChatFormat(tokenizer).prompt_ids(talk("one", "two", "three"))
