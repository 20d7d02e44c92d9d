"""vLLM inside the training process: fast tokens from the trainer's own weights."""

import gc
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from rlff_lightning.engines.adapter_folder import base_and_adapter, check_adapter_folder
from rlff_lightning.engines.base import Completion, Engine, Sampling
from rlff_lightning.engines.host_state import host_kept, rng_kept
from rlff_lightning.engines.limits import check_model_folder, check_requests, check_sampling
from rlff_lightning.engines.next_tokens import Prefix, next_tokens, read_next_tokens
from rlff_lightning.engines.vllm_process import (
    engine_closed,
    engine_opened,
    must_join,
    prepare_process,
)
from rlff_lightning.engines.vllm_queue import RequestQueue
from rlff_lightning.engines.vllm_weights import load_whole
from rlff_lightning.errors import UserError

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput
    from vllm.lora.request import LoRARequest

Quantization = Literal["fp8_per_tensor", "fp8_per_block", "fp8_per_channel"]
"""What vLLM makes of 16-bit weights while it loads them."""

_FEW_TOKENS = 4
"""Up to as many, as the options of a judge have, completions are scored token by token."""

_MOST_ASKED = 128
"""Different next tokens that vLLM scores in one request."""

_INITIAL_ID = 2**30
"""vLLM's id of an adapter that the engine begins with: far from those of versions."""


class VLLMEngine(Engine):
    """Generates with vLLM in this process; vLLM starts at the first use.

    The same prompts in the same order, seeds, weights and number of threads give the same
    completions bit for bit, in any process and whatever ran before. With several threads another
    batch around a prompt may change the last bits of its logits, and so in rare cases a token.

    With several training processes each has an engine of its own. Whichever vLLM a process starts
    first, all must start in the same step, after the strategy has set up ``torch.distributed``:
    ``start`` does so where some may have nothing to generate.

    Args:
        model_name_or_path: Folder in Hugging Face format with safetensors, a folder with a LoRA
            adapter (its base is served with it; needs ``enable_lora``), or a hub name. On CPU vLLM
            computes attention only with head sizes that are multiples of 32.
        max_model_len: Most tokens of a prompt and its completion together.
        dtype: Weights and computation; ``auto`` is float32 on CPU and the checkpoint's on a GPU.
        quantization: How vLLM packs the weights when it loads them, on a GPU; the
            trainer's log-probabilities then differ, see ``PolicyModule.max_mismatch``.
        max_num_seqs: Most sequences computed at once; more wait for their turn.
        max_num_batched_tokens: Most tokens computed in one step; at least ``max_model_len`` on
            CPU, where it is 32768 if left out. On a GPU vLLM chooses.
        block_size: Tokens per block of the key-value cache, the unit of prefix sharing; if left
            out 32 on CPU, on a GPU vLLM chooses.
        enforce_eager: Do without compilation; if left out, so on CPU and not on a GPU.
        gpu_memory_utilization: Share of the GPU's memory for vLLM's weights and cache; the
            trainer needs the rest.
        kv_cache_gib: Size of the key-value cache on CPU in GiB, allocated at start.
        enable_lora: Serve LoRA adapters (``load_adapter``) on frozen base weights.
        max_lora_rank: Largest rank of an adapter, in vLLM one of 1, 8, 16, 32, 64, 128, 256.
        enable_sleep: Lend the GPU's memory to the trainer while it updates: weights move to the
            host and the key-value cache is dropped (vLLM's level 1). Not on CPU, and not with
            ``RolloutSettings.ahead``, where the engine works meanwhile.
        keep_prefixes: Reuse prompt prefixes from earlier calls with the same weights: a third
            faster where conversations go on turn after turn. On CPU with one thread the bits stay
            the same; elsewhere they may depend on what ran before.
        seed: vLLM's own seed; sampling depends on the seeds given to ``generate`` alone.
    """

    def __init__(
        self,
        model_name_or_path: str,
        *,
        max_model_len: int = 2048,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        quantization: Quantization | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int | None = None,
        block_size: int | None = None,
        enforce_eager: bool | None = None,
        gpu_memory_utilization: float = 0.4,
        kv_cache_gib: float = 1.0,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
        enable_sleep: bool = False,
        keep_prefixes: bool = False,
        seed: int = 0,
    ) -> None:
        self.model_name_or_path = model_name_or_path
        self.max_model_len = max_model_len
        self.dtype = dtype
        self.quantization = quantization
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.block_size = block_size
        self.enforce_eager = enforce_eager
        self.gpu_memory_utilization = gpu_memory_utilization
        self.kv_cache_gib = kv_cache_gib
        self.enable_lora = enable_lora
        self.max_lora_rank = max_lora_rank
        self.enable_sleep = enable_sleep
        self.keep_prefixes = keep_prefixes
        self.seed = seed
        self._llm: LLM | None = None
        self._adapter: LoRARequest | None = None
        self._last_version = -1
        self._is_closed = False
        self._queue = RequestQueue(self._running, keep_prefixes=keep_prefixes)

    is_concurrent = True

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        check_sampling("VLLMEngine.generate", sampling)
        room = [sampling.max_tokens] * len(prompts)
        check_requests("VLLMEngine.generate", prompts, room, self.max_model_len)
        drawn = {
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "logprobs": 0 if sampling.with_logps else None,
        }
        outputs = self._run(prompts, [{**drawn, "seed": seed} for seed in seeds])
        return [_completion(output, self._running().get_tokenizer()) for output in outputs]

    def logps(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        # vLLM scores a prompt only on the way to a token behind it.
        room = [len(completion) + 1 for completion in completions]
        check_requests("VLLMEngine.logps", prompts, room, self.max_model_len)
        if max(map(len, completions), default=0) <= _FEW_TOKENS:
            return self._logps_of_few(prompts, completions)
        rows = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
        scored = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0}
        outputs = self._run(rows, [scored] * len(rows))
        return [
            _flat(output.prompt_logprobs)[len(prompt) - 1 :]
            for output, prompt in zip(outputs, prompts, strict=True)
        ]

    def _logps_of_few(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Ask for single next tokens, where prefixes are shared: scored prompts share none."""
        asked = [
            (prefix, ids[start : start + _MOST_ASKED])
            for prefix, ids in next_tokens(prompts, completions).items()
            for start in range(0, len(ids), _MOST_ASKED)
        ]
        settings = [
            {"temperature": 0.0, "max_tokens": 1, "logprob_token_ids": ids} for _, ids in asked
        ]
        outputs = self._run([prefix for prefix, _ in asked], settings)
        found: dict[Prefix, dict[int, float]] = {}
        for (prefix, ids), output in zip(asked, outputs, strict=True):
            # Before the tokens asked for, vLLM puts the one that it sampled.
            logps = _flat(output.outputs[0].logprobs)[1:]
            found.setdefault(prefix, {}).update(zip(ids, logps, strict=False))
        return read_next_tokens(found, prompts, completions)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        llm = self._running()
        detached = ((name, weight.detach()) for name, weight in weights)
        with rng_kept():
            load_whole(llm, detached)

    def load_adapter(self, folder: Path, version: int) -> None:
        if not self.enable_lora:
            raise UserError("VLLMEngine.enable_lora must be true to serve an adapter, got false")
        if version <= self._last_version:
            raise ValueError(f"version must be above {self._last_version}, got {version}")
        # vLLM's ids begin at 1; one used twice would serve cached prefixes of the old adapter.
        self._serve(folder, f"version-{version}", version + 1)
        self._last_version = version

    def _serve(self, folder: Path, name: str, number: int) -> None:
        check_adapter_folder(folder, self.max_lora_rank)
        from vllm.lora.request import LoRARequest

        engine = self._running().llm_engine
        if self._adapter is not None:
            engine.remove_lora(self._adapter.lora_int_id)
        self._adapter = LoRARequest(name, number, str(folder))
        with rng_kept():
            engine.add_lora(self._adapter)
        self._running().reset_prefix_cache()

    def start(self) -> None:
        if must_join():
            self._running()

    def sleep(self) -> None:
        if self.enable_sleep and self._llm is not None:
            self._llm.sleep(level=1)  # level 2 would drop the base weights

    def wake(self) -> None:
        if self.enable_sleep and self._llm is not None:
            # vLLM asks the device itself: what torch keeps of an update would be missing.
            torch.cuda.empty_cache()
            self._llm.wake_up()

    def close(self) -> None:
        self._is_closed = True
        if self._llm is not None:
            llm, self._llm = self._llm, None
            engine_closed(llm)

    def _run(
        self, prompts: Sequence[Sequence[int]], settings: Sequence[dict[str, Any]]
    ) -> "list[RequestOutput]":
        return self._queue.run(prompts, settings, lambda: self._adapter)

    def _running(self) -> "LLM":
        if self._is_closed:
            raise RuntimeError("VLLMEngine is closed; make a new one")
        if self._llm is None:
            base, adapter = base_and_adapter(self.model_name_or_path)
            if adapter is not None and not self.enable_lora:
                raise UserError(
                    f"VLLMEngine.enable_lora must be true to serve {adapter}, an adapter, got false"
                )
            check_model_folder("VLLMEngine", base)
            prepare_process()
            with host_kept(own_prefix="VLLM_"), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                self._llm = self._start(base)
            engine_opened(self._llm)
            if adapter is not None:
                self._serve(adapter, "initial", _INITIAL_ID)
        return self._llm

    def _start(self, base: str) -> "LLM":
        try:
            from vllm import LLM
        except ModuleNotFoundError as error:
            if error.name != "vllm":
                raise
            raise UserError(
                "VLLMEngine needs vLLM, which is not installed; pip install "
                "'rlff-lightning[cuda]', or 'rlff-lightning[cpu]' on a machine without a GPU"
            ) from error
        from vllm.platforms import current_platform

        # vLLM collects garbage five times on its way; half a million imported objects are none.
        gc.collect()
        gc.freeze()
        on_device = self._cpu_settings() if current_platform.is_cpu() else self._gpu_settings()
        try:
            return LLM(
                base,
                quantization=self.quantization,
                max_model_len=self.max_model_len,
                max_num_seqs=self.max_num_seqs,
                seed=self.seed,
                logprobs_mode="processed_logprobs",
                load_format="safetensors",
                use_tqdm_on_load=False,
                enable_lora=self.enable_lora,
                max_lora_rank=self.max_lora_rank,
                **on_device,
            )
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"VLLMEngine cannot serve {self.model_name_or_path}: {reason}"
            ) from error

    def _cpu_settings(self) -> dict[str, Any]:
        if self.enable_sleep:
            raise UserError(
                "VLLMEngine.enable_sleep must be false on a CPU, where vLLM cannot sleep, got true"
            )
        return {
            "dtype": "float32" if self.dtype == "auto" else self.dtype,
            "block_size": self.block_size or 32,
            "enforce_eager": self.enforce_eager is not False,
            "kv_cache_memory_bytes": int(self.kv_cache_gib * 2**30),
            "max_num_batched_tokens": self.max_num_batched_tokens or max(32768, self.max_model_len),
            # A prompt split into chunks would rewind its random generator, which on CPU cannot be.
            "enable_chunked_prefill": False,
        }

    def _gpu_settings(self) -> dict[str, Any]:
        from rlff_lightning.engines.vllm_executor import OnCurrentGpu

        settings: dict[str, Any] = {
            "distributed_executor_backend": OnCurrentGpu,
            "dtype": self.dtype,
            "enforce_eager": self.enforce_eager is True,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "enable_sleep_mode": self.enable_sleep,
        }
        if self.block_size is not None:
            settings["block_size"] = self.block_size
        if self.max_num_batched_tokens is not None:
            settings["max_num_batched_tokens"] = self.max_num_batched_tokens
        return settings


def _completion(output: "RequestOutput", tokenizer: Any) -> Completion:
    [sampled] = output.outputs
    is_finished = sampled.finish_reason == "stop"
    token_ids = tuple(sampled.token_ids)
    spoken = token_ids[:-1] if is_finished else token_ids
    return Completion(
        token_ids=token_ids,
        logps=tuple(_flat(sampled.logprobs)) if sampled.logprobs is not None else (),
        text=tokenizer.decode(spoken, skip_special_tokens=False),
        is_finished=is_finished,
    )


def _flat(logprobs: Any) -> list[float]:
    """Log-probability of each token that has one; nothing else was asked for."""
    values: list[float] = logprobs.logprobs
    return values
