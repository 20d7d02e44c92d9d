"""A small byte-level BPE tokenizer with a chat template, trained on the texts at hand."""

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ROLES = ("user", "assistant", "system")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer that knows ChatML roles and ``<think>``.

    Args:
        texts: What the merges are learned from.
        vocab_size: Upper limit of the vocabulary; at least 300, for 256 bytes and the controls.

    Returns:
        A fast tokenizer; ``<|im_end|>`` ends a sequence and ``<|pad|>`` pads it.
    """
    controls = [
        AddedToken("<|pad|>", special=True),
        AddedToken("<|im_end|>", special=True),
        # A role with its line break is one token: fewer tokens, and nothing to learn about it.
        *(AddedToken(f"<|im_start|>{role}\n", special=True) for role in _ROLES),
        AddedToken("<think>", special=False, normalized=False),
        AddedToken("</think>", special=False, normalized=False),
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(controls),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(controls)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
