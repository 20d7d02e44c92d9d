"""What every engine offers: tokens in, tokens out, and a way to take new weights."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn. No top-p or top-k: the trainer's log-probabilities know neither."""

    temperature: float = 1.0
    """Divides the logits before the softmax; 0 is greedy."""
    max_tokens: int = 256
    """Limit of a completion, end-of-sequence token included."""
    with_logps: bool = True
    """Give the log-probability of every token; faster without, where nobody reads them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What an engine sampled for one prompt."""

    token_ids: tuple[int, ...]
    """Sampled tokens; the end-of-sequence token is the last one if it was sampled."""
    logps: tuple[float, ...]
    """Log-probability of each sampled token in nats, after temperature; none if not asked for."""
    text: str
    """Decoded tokens without the end-of-sequence token; ``<think>`` is kept."""
    is_finished: bool
    """The engine stopped at end-of-sequence, not at the token limit."""


class Engine(ABC):
    """Generates tokens with the policy's weights."""

    model_name_or_path: str
    """Model whose weights the engine starts with, and whose tokenizer it speaks."""
    is_concurrent: bool = False
    """Several threads may be within its calls, though one runs at a time: it waits by
    ``engines.waiting.wait_for``."""
    enable_sleep: bool = False
    """``sleep`` does something: the engine lends its memory while nobody asks it."""

    @abstractmethod
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one completion for each prompt; equal prompts share their prefix.

        Args:
            prompts: Token ids of each prompt; to sample a group, repeat the prompt.
            sampling: How tokens are drawn.
            seeds: One seed per prompt, so that a draw does not depend on its neighbours.

        Returns:
            One completion per prompt, in order.
        """

    @abstractmethod
    def logps(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Score given completion tokens at temperature 1, with the engine's own weights.

        Returns:
            For each pair, the log-probability in nats of every completion token.
        """

    def logps_by_engine(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> dict[str, list[list[float]]]:
        """Score as ``logps`` by each engine that stands behind this one.

        Returns:
            The scores by the engine's name as an error calls it.
        """
        return {"the engine": self.logps(prompts, completions)}

    @abstractmethod
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights, named as in a Hugging Face checkpoint; drop cached prefixes."""

    @abstractmethod
    def load_adapter(self, folder: Path, version: int) -> None:
        """Serve the LoRA adapter in ``folder`` from now on; ``version`` must never repeat."""

    def start(self) -> None:
        """Set up what the processes of a run must set up in the same step, if anything."""
        return

    def sleep(self) -> None:
        """Lend the device's memory to the trainer, where the engine shares it; keep the weights."""
        return

    def wake(self) -> None:
        """Take the memory back after ``sleep``."""
        return

    @abstractmethod
    def close(self) -> None:
        """Free the engine's memory; it cannot be used afterwards."""
