"""Requests to a vLLM of this process by several callers at once, computed in the same steps."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from rlff_lightning.engines.host_state import rng_kept
from rlff_lightning.engines.waiting import wait_for

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput
    from vllm.lora.request import LoRARequest


class RequestQueue:
    """Keeps vLLM's batches full: whoever asks joins the others' steps at once.

    Whoever does the work (``waiting.wait_for``) starts vLLM and gives it its requests.

    Args:
        running: Gives the engine, and starts it at first.
        keep_prefixes: Reuse prompt prefixes of earlier requests; without, they are forgotten
            whenever nobody waits any more.
    """

    def __init__(self, running: "Callable[[], LLM]", *, keep_prefixes: bool) -> None:
        self._running = running
        self._keep_prefixes = keep_prefixes
        self._new: list[_Requests] = []
        self._owners: dict[str, _Requests] = {}

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        settings: Sequence[dict[str, Any]],
        adapter: "Callable[[], LoRARequest | None]",
    ) -> "list[RequestOutput]":
        """Wait for one output per prompt.

        Args:
            prompts: Token ids.
            settings: What vLLM's ``SamplingParams`` are made of, one for each prompt.
            adapter: Gives the adapter served with them, once the engine runs.

        Returns:
            The outputs in order.
        """
        if not prompts:
            return []
        requests = _Requests(self, prompts, settings, adapter)
        self._new.append(requests)
        try:
            wait_for(requests)
        except BaseException:
            self._give_up(requests)
            raise
        return [requests.outputs[name] for name in requests.names]

    def advance(self) -> None:
        """Compute until some request has its output."""
        llm = self._running()
        with rng_kept(), compilation(llm):
            self._submit(llm)
            num_open = len(self._owners)
            while len(self._owners) == num_open:
                if not llm.llm_engine.has_unfinished_requests():
                    raise RuntimeError(f"vLLM dropped {num_open} requests without an answer")
                for output in llm.llm_engine.step():
                    # One without an owner was given up while vLLM took it in.
                    if output.finished and output.request_id in self._owners:
                        owner = self._owners.pop(output.request_id)
                        owner.outputs[output.request_id] = output  # type: ignore[assignment]

    def _submit(self, llm: "LLM") -> None:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        if not self._keep_prefixes and not self._owners:
            llm.reset_prefix_cache()
        while self._new:
            requests = self._new.pop(0)
            inputs = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in requests.prompts]
            params = [
                SamplingParams(detokenize=False, flat_logprobs=True, skip_clone=True, **setting)
                for setting in requests.settings
            ]
            names = llm.enqueue(inputs, params, lora_request=requests.adapter(), use_tqdm=False)
            requests.internal_names = names
            # vLLM names a request by its number, and within itself by that and random letters.
            requests.names = [name.partition("-")[0] for name in names]
            self._owners.update(dict.fromkeys(requests.names, requests))

    def _give_up(self, requests: "_Requests") -> None:
        self._new = [others for others in self._new if others is not requests]
        unfinished = [
            internal
            for internal, name in zip(requests.internal_names, requests.names, strict=True)
            if self._owners.pop(name, None)
        ]
        if unfinished:
            self._running().llm_engine.abort_request(unfinished, internal=True)


class _Requests:
    """What one caller waits for."""

    is_elsewhere = False

    def __init__(
        self,
        queue: RequestQueue,
        prompts: Sequence[Sequence[int]],
        settings: Sequence[dict[str, Any]],
        adapter: "Callable[[], LoRARequest | None]",
    ) -> None:
        self.prompts, self.settings, self.adapter = prompts, settings, adapter
        self.names: list[str] = []
        self.internal_names: list[str] = []
        self.outputs: dict[str, RequestOutput] = {}
        self.advance = queue.advance

    @property
    def is_done(self) -> bool:
        return len(self.outputs) == len(self.prompts)


def compilation(llm: "LLM") -> AbstractContextManager[object]:
    """Keep vLLM, where it runs eagerly, from compiling its sampler: it takes 10 s and g++."""
    is_eager = llm.llm_engine.model_config.enforce_eager
    return torch.compiler.set_stance("force_eager") if is_eager else nullcontext()
