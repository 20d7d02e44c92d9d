import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlff_lightning.dialogue.chat import ChatFormat, ChatSettings
from rlff_lightning.engines.base import Sampling
from rlff_lightning.engines.chat_model import Chat, ChatSampling, ChatTurn
from rlff_lightning.engines.engine_chat import EngineChatModel
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.types import Conversation, Message

OPTIONS = ("No, it is worse.", "No, it is the same.", "Yes, it is solved.")


def chat(*texts: str, system: str = "", seed: int = 1) -> Chat:
    turns = [ChatTurn(role="system", content=system)] if system else []
    for place, text in enumerate(texts):
        turns.append(ChatTurn(role="assistant" if place % 2 else "user", content=text))
    return Chat(turns=tuple(turns), seed=seed)


@pytest.fixture(scope="module")
def engine(long_pocket_folder: Path) -> TransformersEngine:
    return TransformersEngine(str(long_pocket_folder), max_model_len=1024)


def test_a_chat_is_shown_as_the_policy_would_see_it(engine: TransformersEngine) -> None:
    texts = ["I lost my job.", "What happened?", "It <|im_end|> closed."]
    roles = ("seeker", "supporter", "seeker")
    seen = ChatFormat(
        Backbone(engine.model_name_or_path).tokenizer(), ChatSettings(system="You listen.")
    ).prompt_ids(
        Conversation(
            id="c",
            messages=tuple(Message(role=r, text=t) for r, t in zip(roles, texts, strict=True)),
        )
    )
    [expected] = engine.generate([seen], Sampling(temperature=0, max_tokens=16), [0])
    [answer] = EngineChatModel(engine).answer(
        [chat(*texts, system="You listen.")], ChatSampling(temperature=0, max_tokens=16)
    )
    assert answer.texts[0].text == expected.text
    assert answer.texts[0].is_finished == expected.is_finished
    assert answer.usage.prompt_tokens == len(seen)
    assert answer.usage.completion_tokens == len(expected.token_ids)


def test_a_chat_that_is_too_long_fails_alone(engine: TransformersEngine) -> None:
    limited = EngineChatModel(engine, max_prompt_tokens=40)
    chats = [chat("Hello."), chat("alone " * 100), chat("Hello.")]
    first, long, last = limited.answer(chats, ChatSampling(max_tokens=8))
    assert "max_prompt_tokens=40" in long.failure
    assert not long.texts
    assert first == last
    assert len(first.texts) == 1
    scores = limited.score(chats, OPTIONS)
    assert [bool(score.failure) for score in scores] == [False, True, False]


def test_samples_are_drawn_by_the_chats_seed(engine: TransformersEngine) -> None:
    served = EngineChatModel(engine)
    sampling = ChatSampling(num_samples=3, max_tokens=8)
    one, other = served.answer([chat("Hi.", seed=1), chat("Hi.", seed=2)], sampling)
    assert len({*one.texts, *other.texts}) > 3
    assert served.answer([chat("Hi.", seed=2)], sampling) == [other]


def test_a_score_is_the_sum_over_the_options_tokens(engine: TransformersEngine) -> None:
    tokenizer = Backbone(engine.model_name_or_path).tokenizer()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "I lost my job."}], tokenize=False, add_generation_prompt=True
    )
    before = tokenizer.encode(prompt, add_special_tokens=False)
    model = AutoModelForCausalLM.from_pretrained(engine.model_name_or_path, dtype=torch.float32)
    expected = []
    for option in OPTIONS:
        behind = tokenizer.encode(option, add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([before + behind])).logits[0, len(before) - 1 : -1]
        expected.append(float(logits.log_softmax(-1)[range(len(behind)), behind].sum()))
    [score] = EngineChatModel(engine).score([chat("I lost my job.")], OPTIONS)
    assert score.logps == pytest.approx(expected, abs=1e-3)


def test_choices_are_drawn_by_their_probability(engine: TransformersEngine) -> None:
    served, asked = EngineChatModel(engine), chat("I lost my job.")
    [score] = served.score([asked], OPTIONS)
    hot = 8.0
    weights = [math.exp((logp - max(score.logps)) / hot) for logp in score.logps]
    [answer] = served.answer(
        [asked], ChatSampling(temperature=hot, num_samples=4000, choices=OPTIONS)
    )
    drawn = Counter(text.text for text in answer.texts)
    for option, weight in zip(OPTIONS, weights, strict=True):
        # Four standard errors of a share of 4000 draws are at most 0.032.
        assert drawn[option] / 4000 == pytest.approx(weight / sum(weights), abs=0.032)
    [greedy] = served.answer([asked], ChatSampling(temperature=0, choices=OPTIONS))
    assert greedy.texts[0].text == OPTIONS[score.logps.index(max(score.logps))]


def test_an_option_that_begins_another_is_refused(engine: TransformersEngine) -> None:
    with pytest.raises(UserError, match="beginning of another"):
        EngineChatModel(engine).score([chat("Hi.")], ["better", "better but not solved"])
