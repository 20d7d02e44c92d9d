from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from rlff_lightning.models.pocket import build_pocket_model


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<eos>", "<unk>", *(f"w{i}" for i in range(30))]
    vocabulary = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token="<eos>")


@pytest.fixture
def pocket_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path / "pocket"
    model = build_pocket_model(
        32, eos_id=0, pad_id=0, hidden_size=64, num_layers=2, num_heads=4, seed=5
    )
    for weight in model.parameters():  # biases and norms start at constants
        torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
