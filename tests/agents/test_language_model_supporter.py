from pathlib import Path

from rlff_lightning.agents.language_model import LanguageModelSupporter
from rlff_lightning.dialogue.chat import ChatFormat
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.types import Conversation, Message


def test_a_trained_policy_counts_what_it_reads_and_samples(pocket_folder: Path) -> None:
    supporter = LanguageModelSupporter(
        TransformersEngine(str(pocket_folder), max_model_len=256), max_tokens=8
    )
    conversation = Conversation(id="c", messages=(Message(role="seeker", text="I am sad."),))
    supporter.reply([conversation])
    once = supporter.counts
    prompt = ChatFormat(Backbone(str(pocket_folder)).tokenizer()).prompt_ids(conversation)
    assert (once.requests, once.prompt_tokens) == (1, len(prompt))
    assert 1 <= once.completion_tokens <= 8
    supporter.reply([conversation])
    assert supporter.counts - once == once
