"""What both trainers get: the same model folder, prompts, reward and shape; and how both are timed.

The end-of-sequence token lies outside of the model's vocabulary, so that it is never sampled and
every completion has the same length on both sides.
"""

import ctypes
import json
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

LORA_RANK = 16
SIZES = {"1M": (128, 4, 4), "10M": (320, 6, 10)}
"""Width, layers and heads."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One shape of the comparison."""

    prompt: int
    completion: int
    group: int
    groups: int
    params: str
    vocab: int
    mode: str

    @property
    def rows(self) -> int:
        """Completions of an iteration."""
        return self.group * self.groups


def write_model(task: Task, folder: Path) -> None:
    """Write a freshly initialised Qwen2 with a tokenizer of one word per token."""
    hidden, layers, heads = SIZES[task.params]
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=task.vocab,
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=task.vocab,
            pad_token_id=0,
            bos_token_id=None,
        )
    )
    model.generation_config = GenerationConfig(eos_token_id=task.vocab, pad_token_id=0)
    model.save_pretrained(folder)
    names = ["<pad>", *(f"w{i}" for i in range(1, task.vocab)), "<eos>"]
    word_tokenizer(names, unknown="w1").save_pretrained(folder)


def word_tokenizer(names: Sequence[str], *, unknown: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer of one word per token, ``<pad>`` and ``<eos>`` among them."""
    words = {name: number for number, name in enumerate(names)}
    vocabulary = Tokenizer(models.WordLevel(words, unk_token=unknown))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, eos_token="<eos>", pad_token="<pad>"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer


def prompt_text(task: Task, index: int) -> str:
    """Return the words of prompt ``index``, one token each."""
    draw = random.Random(index)
    return " ".join(f"w{draw.randrange(1, task.vocab)}" for _ in range(task.prompt))


def reward(token_ids: Sequence[int]) -> float:
    """Count even tokens: cheap, and never the same for a whole group."""
    return sum(token % 2 == 0 for token in token_ids) / len(token_ids)


class Meter:
    """CPU seconds of this process by phase, and the memory that a phase adds at its peak."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peak_mb = 0.0
        self._base_mb = 0.0

    def timed(self, owner: Any, method: str, phase: str) -> None:
        """Count the CPU seconds of ``owner.method`` as ``phase`` from now on."""
        original: Callable[..., Any] = getattr(owner, method)

        @wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            result = original(*args, **kwargs)
            self.seconds[phase] += time.process_time() - start
            return result

        setattr(owner, method, run)

    def watch_memory(self) -> None:
        """Before the first update: forget earlier peaks, measure against what is held now."""
        if self.peak_mb:
            return
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but is kept for later is not held
        Path("/proc/self/clear_refs").write_text("5")
        self._base_mb = _status_mb("VmRSS")

    def read_memory(self) -> None:
        """After the first update: note the peak. Later ones are left alone: they are timed."""
        self.peak_mb = self.peak_mb or _status_mb("VmHWM") - self._base_mb

    def serve(self, row: Callable[[], dict[str, float]]) -> None:
        """At an iteration's end: report it, then wait until the next one is asked for."""
        reply(row())
        wait()
        self.begin()

    def begin(self) -> None:
        """Start an iteration."""
        self.seconds.clear()
        self.seconds["start"] = time.process_time()

    def total(self) -> float:
        """CPU seconds since the iteration began."""
        return time.process_time() - self.seconds["start"]


def reply(row: dict[str, Any]) -> None:
    """Answer the parent process; everything else that is printed goes to stderr."""
    os.write(_ANSWERS, (json.dumps(row) + "\n").encode())


def wait() -> None:
    """Wait for the parent's word; its end ends this process."""
    if not sys.stdin.readline().strip():
        os._exit(0)


def _status_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def open_answers() -> None:
    """Keep stdout for answers alone, whatever libraries print."""
    global _ANSWERS
    _ANSWERS = os.dup(1)
    os.dup2(2, 1)


_ANSWERS = 1
