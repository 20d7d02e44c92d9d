"""The pocket model: a Qwen2 of a million parameters that two CPU cores can train from scratch."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from rlff_lightning.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class PocketSettings:
    """Sizes of a language model that is trained from scratch, and of its tokenizer."""

    vocab_size: int = 1024
    """Upper limit of the tokenizer's vocabulary."""
    hidden_size: int = 128
    """Width, H."""
    num_layers: int = 4
    """Decoder layers."""
    num_heads: int = 4
    """Attention heads."""
    max_positions: int = 1024
    """Longest prompt and completion together, tokens."""
    seed: int | None = None
    """Of the initial weights; ``None`` takes the run's ``seed_everything``."""


def build_pocket_model(
    vocab_size: int,
    *,
    eos_id: int,
    pad_id: int,
    hidden_size: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    max_positions: int = 1024,
    tie: bool = True,
    seed: int = 0,
) -> Qwen2ForCausalLM:
    """Build a freshly initialised Qwen2 language model, the same for the same seed.

    Linear layers start at a standard deviation of 1/sqrt(inputs): at the customary 0.02 a model
    this narrow hardly learns to copy a word from its context.

    Args:
        vocab_size: Tokens of its tokenizer, V.
        eos_id: Token that ends a completion.
        pad_id: Token that fills up rows; may equal ``eos_id``.
        hidden_size: Width, H; must be a multiple of ``2 * num_heads``.
        num_layers: Decoder layers.
        num_heads: Attention heads.
        max_positions: Longest prompt and completion together, in tokens.
        tie: The output head shares the embedding's weights.
        seed: Of the initial weights; the global generator is left alone.

    Raises:
        UserError: If the sizes do not fit together.
    """
    if min(vocab_size, hidden_size, num_layers, num_heads) < 1 or hidden_size % (2 * num_heads):
        raise UserError(
            f"hidden_size must be a multiple of twice num_heads, got {hidden_size} and {num_heads}"
        )
    if not (0 <= eos_id < vocab_size and 0 <= pad_id < vocab_size):
        raise UserError(
            f"eos_id and pad_id must be below vocab_size {vocab_size}, got {eos_id} and {pad_id}"
        )
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=tie,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Qwen2ForCausalLM = Qwen2ForCausalLM(config)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if tie:
            nn.init.normal_(model.model.embed_tokens.weight, std=hidden_size**-0.5)
    model.generation_config = GenerationConfig(eos_token_id=eos_id, pad_token_id=pad_id)
    model.eval()
    return model
