"""Generation by transformers alone: slow, on any machine, and a check on the fast engine."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlff_lightning.engines.adapter_folder import check_adapter_folder
from rlff_lightning.engines.base import Completion, Engine, Sampling
from rlff_lightning.engines.limits import check_model_folder, check_requests, check_sampling


class TransformersEngine(Engine):
    """Generates with a transformers model of its own, several times slower than vLLM.

    Each prompt draws from a generator of its own seed. Neighbours in a batch change the padding
    and so at most the last bits of the logits.

    Args:
        model_name_or_path: Folder in Hugging Face format with safetensors, or a hub name.
        max_model_len: Most tokens of a prompt and its completion together.
        dtype: Weights and computation.
        max_num_seqs: Rows of one batch.
        device: Where to compute, e.g. ``cpu`` or ``cuda:0``.
    """

    def __init__(
        self,
        model_name_or_path: str,
        *,
        max_model_len: int = 2048,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        max_num_seqs: int = 64,
        device: str = "cpu",
    ) -> None:
        self.model_name_or_path = model_name_or_path
        self.max_model_len = max_model_len
        self.dtype = dtype
        self.max_num_seqs = max_num_seqs
        self.device = device
        self._model: Any = None
        self._tokenizer: Any = None
        self._adapter: str | None = None
        self._last_version = -1
        self._is_closed = False

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        check_sampling("TransformersEngine.generate", sampling)
        room = [sampling.max_tokens] * len(prompts)
        check_requests("TransformersEngine.generate", prompts, room, self.max_model_len)
        self._load()
        completions: list[Completion] = []
        for start in range(0, len(prompts), self.max_num_seqs):
            rows = slice(start, start + self.max_num_seqs)
            completions += self._generate_batch(prompts[rows], sampling, seeds[rows])
        return completions

    @torch.no_grad()
    def logps(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        room = [len(completion) for completion in completions]
        check_requests("TransformersEngine.logps", prompts, room, self.max_model_len)
        self._load()
        return [
            self._score(prompt, completion)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._load()
        own = dict(self._model.named_parameters())
        for name, weight in weights:
            own.pop(name).copy_(weight)
        if own:
            raise ValueError(f"weights must name every parameter, missing {sorted(own)}")

    def load_adapter(self, folder: Path, version: int) -> None:
        if version <= self._last_version:
            raise ValueError(f"version must be above {self._last_version}, got {version}")
        check_adapter_folder(folder)
        self._load()
        name = f"version-{version}"
        self._model.load_adapter(str(folder), adapter_name=name)
        self._model.set_adapter(name)
        if self._adapter is not None:
            self._model.delete_adapter(self._adapter)
        self._adapter, self._last_version = name, version
        self._model.eval()

    def close(self) -> None:
        self._model, self._is_closed = None, True

    def _load(self) -> None:
        if self._is_closed:
            raise RuntimeError("TransformersEngine is closed; make a new one")
        if self._model is None:
            check_model_folder("TransformersEngine", self.model_name_or_path)
            model = AutoModelForCausalLM.from_pretrained(
                self.model_name_or_path, dtype=getattr(torch, self.dtype), use_safetensors=True
            )
            self._model = model.eval().to(self.device)
            self._tokenizer = AutoTokenizer.from_pretrained(self.model_name_or_path)

    def _score(self, prompt: Sequence[int], completion: Sequence[int]) -> list[float]:
        ids = torch.tensor([[*prompt, *completion]], device=self.device)
        logits = self._model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        chosen = torch.tensor(completion, dtype=torch.long, device=self.device)
        logps: list[float] = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()
        return logps

    @torch.no_grad()
    def stream(
        self, prompt: Sequence[int], sampling: Sampling, seed: int
    ) -> Generator[str, None, bool]:
        """Generate for one prompt and give the text piece by piece, as ``generate`` would.

        Args:
            prompt: Token ids.
            sampling: How tokens are drawn.
            seed: The same as for ``generate``.

        Yields:
            Text that follows what was given before; never half a character.

        Returns:
            Whether it ended by itself, not at the token limit.
        """
        check_sampling("TransformersEngine.stream", sampling)
        check_requests(
            "TransformersEngine.stream", [prompt], [sampling.max_tokens], self.max_model_len
        )
        self._load()
        tokens: list[int] = []
        given, is_finished = "", False
        for chosen, _ in self._steps([prompt], sampling, [seed]):
            tokens += chosen
            if chosen[0] in self._eos_ids():
                tokens.pop()
                is_finished = True
                break
            text: str = self._tokenizer.decode(tokens, skip_special_tokens=False)
            # A character's bytes may be spread over tokens.
            if not text.endswith("\ufffd"):
                yield text[len(given) :]
                given = text
        yield self._tokenizer.decode(tokens, skip_special_tokens=False)[len(given) :]
        return is_finished

    def _generate_batch(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        eos_ids = self._eos_ids()
        tokens: list[list[int]] = [[] for _ in prompts]
        logps: list[list[float]] = [[] for _ in prompts]
        is_finished = [False] * len(prompts)
        for chosen, chosen_logps in self._steps(prompts, sampling, seeds):
            for row, (token, logp) in enumerate(zip(chosen, chosen_logps, strict=True)):
                if not is_finished[row]:
                    tokens[row].append(token)
                    logps[row].append(logp)
                    is_finished[row] = token in eos_ids
            if all(is_finished):
                break
        if not sampling.with_logps:
            logps = [[] for _ in prompts]
        return [self._completion(*row) for row in zip(tokens, logps, is_finished, strict=True)]

    def _steps(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Draw a token and its log-probability for each prompt, again and again."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        ids, mask = _pad_left(prompts, self.device)
        cache = None
        for _ in range(sampling.max_tokens):
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            chosen, logps = _sample(out.logits[:, -1].float().cpu(), sampling, generators)
            yield chosen, logps
            ids = torch.tensor(chosen, device=self.device)[:, None]
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)

    def _completion(
        self, token_ids: list[int], logps: list[float], is_finished: bool
    ) -> Completion:
        spoken = token_ids[:-1] if is_finished else token_ids
        return Completion(
            token_ids=tuple(token_ids),
            logps=tuple(logps),
            text=self._tokenizer.decode(spoken, skip_special_tokens=False),
            is_finished=is_finished,
        )

    def _eos_ids(self) -> set[int]:
        of_model = self._model.generation_config.eos_token_id
        ids = of_model if isinstance(of_model, list) else [of_model]
        return {i for i in (*ids, self._tokenizer.eos_token_id) if i is not None}


def _pad_left(prompts: Sequence[Sequence[int]], device: str) -> tuple[Tensor, Tensor]:
    """Return ids and mask, ``(B, P)``; what stands in the padding is never attended to."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _sample(
    logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]
) -> tuple[list[int], list[float]]:
    """Draw one token per row by the inverse of the cumulative distribution."""
    if sampling.temperature == 0:
        logps = logits.log_softmax(-1)
        chosen = logps.argmax(-1)
    else:
        logps = (logits / sampling.temperature).log_softmax(-1)
        cumulative = logps.double().exp().cumsum(-1)
        draws = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
        # The sum may end a little off 1: a draw is a share of what it ends at.
        marks = draws[:, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, marks, right=True)[:, 0]
    picked: list[float] = logps.gather(1, chosen[:, None])[:, 0].tolist()
    ids: list[int] = chosen.tolist()
    return ids, picked
