"""One vLLM server of a pool: what it serves, whether it answers, and requests to it."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, TypeVar

import httpx
import openai

from rlff_lightning.engines.server_faults import FAILURES, TransientError, explained
from rlff_lightning.engines.vllm_transfer import TRIED_WITH, check_version, ending_calls
from rlff_lightning.errors import UserError

T = TypeVar("T")

Call = tuple[str, dict[str, Any]]
"""A route of the server, beside its API, and a request's body."""

_PATIENCE = 3
"""Health checks in a row without an answer after which a server counts as gone."""


class PoolServer:
    """Talks to one server; a server is in service while it answers and serves the right weights.

    Args:
        url: Of its API, ``http://10.0.0.7:8000/v1``.
        api_key: Sent as the bearer token; empty for none.
        concurrency: Most requests in flight.
        timeout_s: Longest time for one request.
        health_timeout_s: Longest time for an answer to a health check.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str,
        concurrency: int,
        timeout_s: float,
        health_timeout_s: float,
    ) -> None:
        self.url = url.rstrip("/")
        self.root = self.url.removesuffix("/v1")
        self.fault = "was not asked yet"
        self.load = 0
        """Requests given to it and not answered."""
        self.max_model_len = 0
        """Most tokens of a prompt and its completion; 0 before the server was seen."""
        self.adapters: list[str] = []
        """Names of the adapters that it may know, the one loaded last at the end."""
        self.proved = ""
        """Weights for which its log-probabilities were given to be compared with the trainer's."""
        self._secret = api_key
        self._health_timeout_s = health_timeout_s
        self._unanswered = 0
        self._gone = asyncio.Event()
        self._gone.set()
        self._slots = asyncio.Semaphore(concurrency)
        self._client = openai.AsyncOpenAI(
            base_url=self.url, api_key=api_key or "none", timeout=timeout_s, max_retries=0
        )

    @property
    def is_up(self) -> bool:
        """The last check found it in service."""
        return not self._gone.is_set()

    async def check(self, model: str, version: str | None) -> None:
        """Find out whether the server answers and serves ``model`` with weights ``version``."""
        try:
            await self.ask("health")
            served = {card["id"] for card in await self._models()}
            fault = "" if model in served else f"serves {model} no more, it was started again"
            if version is not None:
                found = (await self.ask("weight_info")).json()["weight_version"]
                if found != version:
                    fault = f"serves weights {found}, not {version}"
            self._unanswered = 0
        except openai.APITimeoutError:
            # A busy machine may be late once.
            self._unanswered += 1
            fault = f"gave no answer within {self._health_timeout_s:g} s"
            if self._unanswered < _PATIENCE and self.is_up:
                return
        except FAILURES as error:
            fault = str(explained(error, "ServerPoolEngine", self._secret))
        self.fault = fault
        if fault:
            self._gone.set()
        else:
            self._gone.clear()

    def retire(self, fault: str) -> None:
        """Take the server out of service until a check finds otherwise."""
        self.fault = fault
        self._gone.set()

    async def introduce(self, model: str) -> None:
        """Learn what the server offers, once.

        Raises:
            UserError: If it does not serve ``model``, or gives log-probabilities before
                temperature, or none of chosen tokens.
            openai.OpenAIError: If it does not answer.
        """
        if self.max_model_len:
            return
        await self.end_update()
        cards = {card["id"]: card for card in await self._models()}
        if model not in cards:
            raise UserError(
                f"ServerPoolEngine.served_name: {self.url} must serve {model}, "
                f"it serves {', '.join(sorted(cards))}"
            )
        cold, warm = [await self._log_odds(model, temperature) for temperature in (0.5, 1.0)]
        if abs(cold - 2 * warm) > 1e-2 * max(1.0, abs(cold)):
            raise UserError(
                f"{self.url} gives log-probabilities before temperature; start it with "
                "--logprobs-mode processed_logprobs"
            )
        self.max_model_len = int(cards[model]["max_model_len"])

    async def complete(self, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        """Send one completion request; it fails at once when the server leaves service.

        Raises:
            TransientError: If another attempt, or another server, may succeed.
            RefusedError: If the request itself is refused.
        """
        async with self._slots:
            asked = asyncio.ensure_future(self._client.completions.create(**body))
            gone = asyncio.ensure_future(self._gone.wait())
            try:
                await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not asked.done():
                    raise TransientError("connection", self.fault)
                return read(asked.result())
            except openai.NotFoundError as error:
                raise TransientError("server error", error.message) from None
            except FAILURES as error:
                raise explained(error, "ServerPoolEngine", self._secret) from None
            finally:
                asked.cancel()
                gone.cancel()

    async def serve_adapter(self, name: str, folder: str) -> None:
        """Load an adapter under a new name; nothing changes where it is loaded already.

        What lies beside it was loaded by an earlier life of the run, and is now known too.

        Raises:
            UserError: If the server refuses it.
            openai.OpenAIError: If it does not answer.
        """
        if name not in self.adapters:
            self.adapters.append(name)
        beside = PurePosixPath(folder).parent
        served = {card["id"]: card.get("root") or "" for card in await self._models()}
        left = [one for one, root in served.items() if PurePosixPath(root).parent == beside]
        self.adapters[:0] = [one for one in left if one not in self.adapters]
        # An answer that was lost is asked for again, and a name is not taken twice.
        if name in served:
            return
        body = {"lora_name": name, "lora_path": folder}
        try:
            await self._post(f"{self.url}/load_lora_adapter", body)
        except openai.NotFoundError as error:
            if error.body is None or "adapter" not in error.message.lower():
                raise UserError(
                    f"{self.url} loads no adapters: start it with --enable-lora and the "
                    "environment variable VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
                ) from error
            raise UserError(
                f"{self.url} finds no adapter in {folder}: the folder must be on a disk that "
                "trainer and servers see under one path"
            ) from error
        except openai.APIStatusError as error:
            if error.status_code > 500:
                raise  # its own fault, not a setting's
            if error.status_code == 500:
                # vLLM says so of an adapter that does not fit it too, and then serves on.
                await self.ask("health")
            raise UserError(f"{self.url} refuses adapter {folder}: {_line(error)}") from error

    async def drop_adapters(self, keep: str | None = None) -> None:
        """Forget all adapters but one; those that the server does not know are forgotten already.

        Raises:
            openai.OpenAIError: If the server does not answer.
        """
        for name in [name for name in self.adapters if name != keep]:
            with suppress(openai.NotFoundError):
                await self._post(f"{self.url}/unload_lora_adapter", {"lora_name": name})
            self.adapters.remove(name)

    async def take_weights(self, calls: Sequence[Call]) -> None:
        """Pass through the calls of a weight update.

        Raises:
            UserError: If the server's version was not tried, or it takes no weights.
            openai.OpenAIError: If it does not answer.
        """
        check_version((await self.ask("version")).json()["version"], self.url)
        await self.end_update()
        try:
            await self._pass(calls)
        except BaseException:
            with suppress(*FAILURES):
                await self.end_update()
            raise

    async def end_update(self) -> None:
        """Let a server work again that a trainer left in the middle of an update of its weights.

        Raises:
            UserError: If it cannot end the update.
            openai.OpenAIError: If it does not answer.
        """
        try:
            is_paused = (await self.ask("is_paused")).json()["is_paused"]
        except openai.NotFoundError:
            return  # without these routes no update was begun
        if not is_paused:
            return
        first, *rest = ending_calls()
        with suppress(openai.APIStatusError):
            await self._pass([first])
        try:
            await self._pass(rest)
        except (UserError, openai.APIStatusError) as error:
            raise UserError(
                f"{self.url} was left in the middle of an update of its weights and cannot end "
                f"it; start it again ({' '.join(str(error).split())[:200]})"
            ) from error

    async def _pass(self, calls: Sequence[Call]) -> None:
        for route, body in calls:
            try:
                await self._post(f"{self.root}/{route}", body)
            except openai.NotFoundError as error:
                raise UserError(
                    f"{self.url} takes no weights: start it with VLLM_SERVER_DEV_MODE=1"
                ) from error
            except openai.InternalServerError:
                raise
            except openai.APIStatusError as error:
                raise UserError(
                    f"{self.url} refuses the weights at {route}: {_line(error)}; it must be "
                    "started as configs/launch/vllm_server.sh does"
                ) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _models(self) -> list[dict[str, Any]]:
        cards: list[dict[str, Any]] = (await self.ask("v1/models")).json()["data"]
        return cards

    async def _log_odds(self, model: str, temperature: float) -> float:
        """Ask how much likelier token 1 is than token 0 at a temperature, in nats.

        Raises:
            UserError: If the answer does not tell.
        """
        answer = await self._client.completions.create(
            model=model,
            prompt=[1, 2, 3],
            max_tokens=1,
            temperature=temperature,
            logprobs=2,
            extra_body={"logprob_token_ids": [0, 1], "return_tokens_as_token_ids": True},
        )
        try:
            [found] = answer.choices[0].logprobs.top_logprobs  # type: ignore[union-attr,misc]
            return float(found["token_id:1"] - found["token_id:0"])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.url} must give log-probabilities of the tokens that a request names "
                f"(logprob_token_ids), as vLLM {TRIED_WITH[0]} does; start such a vLLM there"
            ) from error

    async def ask(self, route: str) -> httpx.Response:
        """Get a route beside the API, in the time of a health check."""
        return await self._client.get(
            f"{self.root}/{route}",
            cast_to=httpx.Response,
            options={"timeout": self._health_timeout_s},
        )

    async def _post(self, url: str, body: dict[str, Any]) -> httpx.Response:
        # A server that fails hangs up behind its answer: the next call would find the line dead.
        alone: Any = {"headers": {"Connection": "close"}}
        return await self._client.post(url, cast_to=httpx.Response, body=body, options=alone)


def _line(error: openai.APIStatusError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return " ".join(str(body.get("message") or json.dumps(body) or error.message).split())[:300]
