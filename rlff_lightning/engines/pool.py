"""vLLM servers, on this or other nodes, as one engine."""

import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, distributed

from rlff_lightning.engines.adapter_folder import check_adapter_folder
from rlff_lightning.engines.base import Completion, Engine, Sampling
from rlff_lightning.engines.limits import check_requests, check_sampling
from rlff_lightning.engines.processes import from_first, is_first, wait_for_all
from rlff_lightning.engines.server import api_key, check_url, check_variable
from rlff_lightning.engines.vllm_transfer import update_calls, write_weights
from rlff_lightning.errors import StoppedRun, UserError
from rlff_lightning.models.backbone import Backbone

if TYPE_CHECKING:
    from rlff_lightning.engines.pool_server import PoolServer
    from rlff_lightning.engines.pool_session import Job, PoolSession


class ServerPoolEngine(Engine):
    """Generates with a pool of vLLM servers, which ``configs/launch/vllm_server.sh`` starts.

    Servers are checked for health while they work. A request that fails, or whose server is gone,
    is sent to another one with the same seed. A server serves again once it is proved to have the
    current weights; one that was started anew gets them with the next sync. Without any server the
    run stops after ``max_outage_s``.

    All processes of a run share the pool: the first one gives it weights, each proves every
    server. Draws depend on their seeds, but not to the last bit: what else a server computes at
    the moment may change the last bits of the logits, and so in rare cases a token.

    Args:
        model_name_or_path: The base model that the servers serve, for its tokenizer.
        urls: Of the servers' APIs, e.g. ``[http://10.0.0.7:8000/v1]``.
        served_name: Name of the base model at the servers; ``model_name_or_path`` if left out.
        weights_folder: Where all weights of a policy without adapter are written for the servers:
            a folder that they see under the same path. Adapters lie in the run's folder, which
            they must see as well.
        api_key_variable: Environment variable that holds the servers' key; ``None`` sends none.
        concurrency: Most requests in flight at one server.
        timeout_s: Longest time for one request before it is sent again.
        max_attempts: Attempts of a request before the run stops.
        health_interval_s: Time between health checks.
        max_outage_s: Longest time without any server in service.
    """

    def __init__(
        self,
        model_name_or_path: str,
        urls: list[str],
        *,
        served_name: str | None = None,
        weights_folder: str | None = None,
        api_key_variable: str | None = None,
        concurrency: int = 256,
        timeout_s: float = 600.0,
        max_attempts: int = 8,
        health_interval_s: float = 5.0,
        max_outage_s: float = 120.0,
    ) -> None:
        if not urls or len(set(urls)) < len(urls):
            raise UserError(
                f"ServerPoolEngine.urls must name at least one server and each once, got {urls}"
            )
        for url in urls:
            check_url("ServerPoolEngine.urls", url)
        check_variable("ServerPoolEngine", api_key_variable)
        for field, value in (
            ("concurrency", concurrency),
            ("timeout_s", timeout_s),
            ("max_attempts", max_attempts),
            ("health_interval_s", health_interval_s),
        ):
            if value <= 0:
                raise UserError(f"ServerPoolEngine.{field} must be above 0, got {value}")
        self.model_name_or_path = model_name_or_path
        self.urls = urls
        self.served_name = served_name or model_name_or_path
        self.weights_folder = weights_folder
        self.api_key_variable = api_key_variable
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.max_attempts = max_attempts
        self.health_interval_s = health_interval_s
        self.max_outage_s = max_outage_s
        self._opened: PoolSession | None = None
        self._tokenizer: Any = None
        self._run = ""
        self._last_version = -1
        self._is_closed = False

    @property
    def num_restarts(self) -> int:
        """Requests of this process that were asked again so far."""
        return self._opened.num_restarts if self._opened else 0

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        check_sampling("ServerPoolEngine.generate", sampling)
        session = self._session()
        room = [sampling.max_tokens] * len(prompts)
        check_requests("ServerPoolEngine.generate", prompts, room, session.max_model_len)
        # Given in full: a server's own defaults come from the model's generation_config.json.
        drawn = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
        bodies = [{**drawn, "seed": seed, "logprobs": 0} for seed in seeds]
        found = session.send(_jobs(prompts, bodies), self._read_completion)
        # Asked for all the same: an answer is known to be whole by them.
        return found if sampling.with_logps else [replace(one, logps=()) for one in found]

    def logps(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        rows = self._session().send(self._scoring(prompts, completions), _read_prompt_logps)
        return _behind(prompts, rows)

    def logps_by_engine(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> dict[str, list[list[float]]]:
        jobs = self._scoring(prompts, completions)
        found = self._session().send_to_each(jobs, _read_prompt_logps)
        return {url: _behind(prompts, rows) for url, rows in found.items()}

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        if self.weights_folder is None:
            # The weights of a sharded model are gathered by all processes together or not at all.
            raise UserError(
                "ServerPoolEngine.weights_folder must be a folder that trainer and servers see, "
                "to give the servers all weights of a policy without adapter, got none"
            )
        version = self._last_version + 1
        name = f"{self._run_name()}-{version}"
        target = Path(self.weights_folder) / f"weights-{name}"
        if is_first():
            write_weights(weights, target)
        else:
            for _ in weights:  # gathering takes every process
                pass
        calls = update_calls(target, name)
        self._on_each_once(lambda server: server.take_weights(calls))
        if is_first():
            for other in Path(self.weights_folder).glob(f"weights-{self._run_name()}-*"):
                if other != target:
                    shutil.rmtree(other)
        session = self._session()
        session.model, session.version, self._last_version = session.base, name, version
        session.refresh()

    def load_adapter(self, folder: Path, version: int) -> None:
        if version <= self._last_version:
            raise ValueError(f"version must be above {self._last_version}, got {version}")
        check_adapter_folder(folder)
        # Of this start of the run alone: a server that was asked by an earlier one still knows its
        # names, and may hold prefixes that were computed with them.
        name = f"{self._run_name()}-{version}"
        path = str(folder.resolve())
        self._on_each_once(lambda server: server.serve_adapter(name, path))
        self._on_each_once(lambda server: server.drop_adapters(keep=name))
        session = self._session()
        session.model, self._last_version = name, version
        session.refresh()

    def close(self) -> None:
        self._is_closed = True
        session, self._opened = self._opened, None
        if session is None or session.pid != os.getpid():
            return

        async def last(server: "PoolServer") -> None:
            await server.drop_adapters()

        session.close(last)
        if is_first() and self.weights_folder is not None:
            for folder in Path(self.weights_folder).glob(f"weights-{self._run}-*"):
                shutil.rmtree(folder)

    def _on_each_once(self, act: "Callable[[PoolServer], Awaitable[None]]") -> None:
        """Act on every server from the first process; all of them learn what came of it."""
        session = self._session()
        fault: Exception | None = None
        # Nobody may still wait for an answer of the old weights.
        wait_for_all()
        if is_first():
            try:
                session.on_each(act)
            except (UserError, StoppedRun) as error:
                fault = error
        told = from_first((isinstance(fault, UserError), str(fault)) if fault else None)
        if told is not None:
            is_mistake, text = told
            raise fault or (UserError(text) if is_mistake else StoppedRun(text))

    def _run_name(self) -> str:
        if not self._run:
            self._run = str(from_first(f"rlff-{secrets.token_hex(4)}"))
        return self._run

    def _scoring(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> "list[Job]":
        # vLLM scores a prompt only on the way to a token behind it.
        room = [len(completion) + 1 for completion in completions]
        limit = self._session().max_model_len
        check_requests("ServerPoolEngine.logps", prompts, room, limit)
        rows = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
        scored = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0}
        return _jobs(rows, [scored] * len(rows))

    def _read_completion(self, answer: Any) -> Completion:
        from rlff_lightning.engines.server_faults import TransientError

        try:
            [choice] = answer.choices
            token_ids = tuple(map(int, choice.token_ids))
            logps = tuple(map(float, choice.logprobs.token_logprobs))
        except (AttributeError, TypeError, ValueError) as error:
            raise TransientError("bad answer", f"no tokens in it ({error})") from None
        if choice.finish_reason not in ("stop", "length") or len(token_ids) != len(logps):
            raise TransientError("bad answer", f"it ended by {choice.finish_reason}")
        is_finished = choice.finish_reason == "stop"
        return Completion(
            token_ids=token_ids,
            logps=logps,
            text=self._tokenizer.decode(
                token_ids[:-1] if is_finished else token_ids, skip_special_tokens=False
            ),
            is_finished=is_finished,
        )

    def _session(self) -> "PoolSession":
        if self._is_closed:
            raise RuntimeError("ServerPoolEngine is closed; make a new one")
        # A forked process has the session's connections, but not its thread.
        if self._opened is None or self._opened.pid != os.getpid():
            from rlff_lightning.engines.pool_server import PoolServer
            from rlff_lightning.engines.pool_session import PoolPatience, PoolSession

            key = api_key("ServerPoolEngine", self.api_key_variable)
            self._tokenizer = Backbone(self.model_name_or_path).tokenizer()
            self._opened = PoolSession(
                lambda: [
                    PoolServer(
                        url,
                        api_key=key,
                        concurrency=self.concurrency,
                        timeout_s=self.timeout_s,
                        health_timeout_s=max(10.0, self.health_interval_s),
                    )
                    for url in self.urls
                ],
                model=self.served_name,
                patience=PoolPatience(
                    max_attempts=self.max_attempts,
                    health_interval_s=self.health_interval_s,
                    max_outage_s=self.max_outage_s,
                ),
                offset=distributed.get_rank() if distributed.is_initialized() else 0,
            )
        return self._opened


def _jobs(prompts: Sequence[Sequence[int]], bodies: Sequence[dict[str, Any]]) -> "list[Job]":
    """Word the requests; equal prompts in a row are a group."""
    from rlff_lightning.engines.pool_session import Job

    plain = {"top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    own = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}
    jobs: list[Job] = []
    group = -1
    for index, (prompt, body) in enumerate(zip(prompts, bodies, strict=True)):
        group += index == 0 or prompt != prompts[index - 1]
        extra = {**own, **{k: body[k] for k in ("prompt_logprobs",) if k in body}}
        known = {key: value for key, value in body.items() if key != "prompt_logprobs"}
        jobs.append(Job({"prompt": list(prompt), **plain, **known, "extra_body": extra}, group))
    return jobs


def _read_prompt_logps(answer: Any) -> list[float]:
    """Take the log-probability of every prompt token but the first."""
    from rlff_lightning.engines.server_faults import TransientError

    try:
        [choice] = answer.choices
        return [
            float(entry[str(token)]["logprob"])
            for token, entry in zip(
                choice.prompt_token_ids[1:], choice.prompt_logprobs[1:], strict=True
            )
        ]
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise TransientError("bad answer", f"no prompt_logprobs in it ({error!r})") from None


def _behind(prompts: Sequence[Sequence[int]], rows: Sequence[list[float]]) -> list[list[float]]:
    """Keep the completions' part."""
    return [row[len(prompt) - 1 :] for prompt, row in zip(prompts, rows, strict=True)]
