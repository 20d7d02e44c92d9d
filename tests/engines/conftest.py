"""A tiny random Qwen2 with a byte-level tokenizer, and one running vLLM for all tests here."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rlff_lightning.engines.vllm import VLLMEngine

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _build_folder(folder: Path, seed: int) -> Path:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_tokens(["<think>", "</think>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def _expected_logps(
    model: torch.nn.Module, prompt: list[int], completion: list[int], temperature: float = 1.0
) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)[range(len(completion)), completion]


@pytest.fixture(scope="session")
def build_folder() -> Callable[[Path, int], Path]:
    """Write a model folder, its weights drawn from a seed."""
    return _build_folder


@pytest.fixture(scope="session")
def expected_logps() -> Callable[..., torch.Tensor]:
    """Score completions by one plain forward pass: the oracle of every engine."""
    return _expected_logps


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    """Settings of a small engine."""
    return {"max_model_len": 256, "kv_cache_gib": 0.03125}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build_folder(tmp_path_factory.mktemp("engines") / "model", seed=0)


@pytest.fixture
def model(model_folder: Path) -> Qwen2ForCausalLM:
    """A trainer's model of its own for each test."""
    return Qwen2ForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()


@pytest.fixture
def prompts() -> list[list[int]]:
    """Prompts of 5 to 80 tokens, each twice, as siblings of a group."""
    draw = random.Random(3)
    lengths = [5, 33, 80, 64, 17, 40]
    prompts = [[draw.randrange(256) for _ in range(length)] for length in lengths]
    return [prompt for prompt in prompts for _ in range(2)]


@pytest.fixture(scope="session")
def running_engine(model_folder: Path, settings: dict[str, Any]) -> Iterator[VLLMEngine]:
    engine = VLLMEngine(str(model_folder), **settings)
    yield engine
    engine.close()


@pytest.fixture
def engine(running_engine: VLLMEngine, model_folder: Path) -> VLLMEngine:
    """The shared engine with the folder's weights again, whatever a test loaded before."""
    stored = Qwen2ForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    running_engine.load_weights(stored.named_parameters())
    return running_engine
