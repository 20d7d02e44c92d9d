"""Measure what an update adds to memory with a large vocabulary, with and without whole logits.

    python benchmarks/logits_memory.py --vocab 150000

One group of 8 replies of 96 tokens behind 64 prompt tokens; a model of a million parameters
besides its embedding, so that little but the vocabulary counts.
"""

import argparse
import os
import sys
from collections.abc import Callable

import torch
from grpo_sides.task import Meter
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlff_lightning.functional.log_probs import selective_log_softmax
from rlff_lightning.models.group_logps import group_logps

GROUP, PROMPT, TOKENS = 8, 64, 96


def chunked(model: Qwen2ForCausalLM, prompt: Tensor, completions: Tensor) -> Tensor:
    """Score as a policy update does."""
    masks = torch.ones_like(prompt, dtype=torch.bool), torch.ones_like(completions).bool()
    return group_logps(model, prompt, masks[0], completions, masks[1]).logps


def whole(model: Qwen2ForCausalLM, prompt: Tensor, completions: Tensor) -> Tensor:
    """Score padded rows by logits of all completion tokens at once."""
    ids = torch.cat([prompt.expand(len(completions), -1), completions], dim=1)
    logits = model(ids, use_cache=False, logits_to_keep=TOKENS + 1).logits
    return selective_log_softmax(logits[:, :-1], completions)


def added_mb(score: Callable[..., Tensor], vocab: int) -> float:
    """Peak of a forward and backward pass over what is held before it, MiB, in a new process."""
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        with os.fdopen(read) as answer:
            found = float(answer.read())
        os.wait()
        return found
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=vocab, tie_word_embeddings=True, **sizes, **heads)
    )
    prompt, completions = (torch.randint(vocab, shape) for shape in ((1, PROMPT), (GROUP, TOKENS)))
    meter = Meter()
    meter.watch_memory()
    score(model.train(), prompt, completions).sum().backward()
    meter.read_memory()
    os.write(write, str(meter.peak_mb).encode())
    os._exit(0)


def main() -> int:
    """Print both peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vocab", type=int, default=150_000)
    vocab = parser.parse_args().vocab
    torch.set_num_threads(1)
    ours, plain = added_mb(chunked, vocab), added_mb(whole, vocab)
    print(f"vocabulary {vocab}: {ours:.0f} MB in chunks, {plain:.0f} MB whole, {ours / plain:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
