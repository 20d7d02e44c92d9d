"""Many requests at once from synchronous code: an event loop in a thread, retries, one budget.

An outage or a rate limit concerns the whole server and is noticed by all requests together: once
nothing has been answered for longer than the budget, each gives up after its next attempt.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, TypeVar

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

from rlff_lightning.engines.chat_model import FaultCause
from rlff_lightning.engines.loop_thread import LoopThread
from rlff_lightning.engines.server_faults import FAILURES, RefusedError, TransientError, explained
from rlff_lightning.engines.server_limit import RateLimit
from rlff_lightning.engines.server_patience import GivesUp, Patience, ServerWatch, fault_of
from rlff_lightning.errors import StoppedRun

T = TypeVar("T")
_MOST_REFUSALS = 8
"""Of the first requests, if none got what it asked for: it must be the settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply(Generic[T]):
    """What became of a request."""

    value: T | None
    """What was read from the answer; ``None`` if the request failed."""
    failure: str = ""
    """Why it failed."""
    retries: tuple[FaultCause, ...] = ()
    """Cause of every attempt that was followed by another."""


class ServerSession:
    """An open client; belongs to the process that made it.

    Args:
        owner: Whose settings a mistake is blamed on.
        base_url: Of the server's API.
        api_key: Sent as the bearer token, never shown; empty for a server that asks for none.
        concurrency: Most requests in flight.
        timeout_s: Longest time for one attempt, from the request to the last byte of its answer.
        patience: How long a request is tried.
    """

    def __init__(
        self,
        *,
        owner: str,
        base_url: str,
        api_key: str,
        concurrency: int,
        timeout_s: float,
        patience: Patience,
    ) -> None:
        self.owner = owner
        self.patience = patience
        self.timeout_s = timeout_s
        self._secret = api_key
        self._backoff = wait_exponential_jitter(
            multiplier=0.5, max=patience.max_wait_s, jitter=min(1.0, patience.max_wait_s)
        )
        self._slots = asyncio.Semaphore(concurrency)
        # What follows a question mark may be a key.
        self._watch = ServerWatch(base_url.partition("?")[0])
        self._limit = RateLimit(patience, self._watch)
        self._thread = LoopThread("rlff-server")
        self.pid = self._thread.pid
        self._client = AsyncOpenAI(
            base_url=base_url,
            # Without one the client would send the key that it finds in the environment.
            api_key=api_key or "none",
            # The client's own limit starts anew with every byte that arrives.
            timeout=None,
            max_retries=0,
        )

    def send(
        self, bodies: Sequence[dict[str, Any]], read: Callable[[ChatCompletion], T]
    ) -> list[Reply[T]]:
        """Send chat completion requests and wait for all.

        Args:
            bodies: Arguments of the client's ``chat.completions.create``.
            read: Takes an answer apart; raises ``TransientError`` if it is none.

        Returns:
            One reply per request, in order.

        Raises:
            UserError: If the server denies access or does not know the model.
            StoppedRun: If a request is given up though the server has never answered any, or only
                to refuse it.
        """
        return self._thread.run(self._send_all(bodies, read))

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._thread.run(self._client.close())
        self._thread.close()

    async def _send_all(
        self, bodies: Sequence[dict[str, Any]], read: Callable[[ChatCompletion], T]
    ) -> list[Reply[T]]:
        tasks = [asyncio.ensure_future(self._send(body, read)) for body in bodies]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _send(self, body: dict[str, Any], read: Callable[[ChatCompletion], T]) -> Reply[T]:
        causes: list[FaultCause] = []
        attempts = AsyncRetrying(
            retry=retry_if_exception(_is_passing),
            wait=self._wait_s,
            stop=GivesUp(self.patience, self._watch),
            before_sleep=lambda state: causes.append(fault_of(state).cause),
            reraise=True,
        )
        try:
            value: T = await attempts(self._attempt, body, read, causes)
        except (TransientError, RefusedError) as error:
            if not self._watch.num_answers:
                # Every other request would fare alike, and all contexts be given up for nothing.
                is_held_back = isinstance(error, TransientError) and error.cause == "rate limit"
                way_out = "come back later" if is_held_back else "start the server"
                raise StoppedRun(
                    f"{self.owner}.base_url: {self._watch.url} has not answered once in "
                    f"{self._watch.silent_s:.0f} s: {error}; {way_out} or mend the address"
                ) from None
            if not self._watch.is_of_use and self._watch.num_refusals >= _MOST_REFUSALS:
                raise StoppedRun(
                    f"{self.owner}: {self._watch.url} refuses every request, "
                    f"{self._watch.num_refusals} so far: {error}; mend the settings"
                ) from None
            return Reply(value=None, failure=str(error), retries=tuple(causes))
        return Reply(value=value, retries=tuple(causes))

    async def _attempt(
        self,
        body: dict[str, Any],
        read: Callable[[ChatCompletion], T],
        causes: list[FaultCause],
    ) -> T:
        """Send a request, once; again where only a rate limit turned it away."""
        async with self._slots:
            waits_since = monotonic()
            while True:
                asked_at = await self._limit.passed()
                try:
                    return await self._ask(body, read)
                except TransientError as fault:
                    if _is_passing(fault) or not self._limit.met(
                        fault, asked_at=asked_at, waits_since=waits_since
                    ):
                        raise
                    causes.append(fault.cause)

    async def _ask(self, body: dict[str, Any], read: Callable[[ChatCompletion], T]) -> T:
        try:
            async with asyncio.timeout(self.timeout_s):
                value = read(await self._client.chat.completions.create(**body))
        except FAILURES as error:
            is_admitted = self._watch.is_of_use
            told = explained(error, self.owner, self._secret, is_admitted=is_admitted)
            raise self._noted(told) from None
        except TransientError as fault:
            raise self._noted(fault) from None
        self._watch.answered()
        return value

    def _noted(self, error: Exception) -> Exception:
        """Tell the watch; a refusal is an answer."""
        if isinstance(error, TransientError):
            self._watch.failed(error)
        else:
            self._watch.refused()
        return error

    def _wait_s(self, state: RetryCallState) -> float:
        return max(self._backoff(state), fault_of(state).retry_after_s)


def _is_passing(error: BaseException) -> bool:
    """Tell whether another attempt may help; a rate limit was waited for already."""
    return isinstance(error, TransientError) and error.cause != "rate limit"
