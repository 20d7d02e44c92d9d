"""Many requests at once from synchronous code: an event loop in a thread, retries, one budget.

A whole-server outage is noticed by all requests together: once nothing has been answered for
longer than the budget, each gives up after its next attempt.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    wait_exponential_jitter,
)

from rlff_lightning.engines.chat_model import FaultCause
from rlff_lightning.engines.loop_thread import LoopThread
from rlff_lightning.engines.server_faults import FAILURES, RefusedError, TransientError, explained
from rlff_lightning.engines.server_patience import GivesUp, Patience, ServerWatch, fault_of
from rlff_lightning.errors import StoppedRun

T = TypeVar("T")


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
        timeout_s: Longest time for one attempt.
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
        self._secret = api_key
        self._backoff = wait_exponential_jitter(
            multiplier=0.5, max=patience.max_wait_s, jitter=min(1.0, patience.max_wait_s)
        )
        self._slots = asyncio.Semaphore(concurrency)
        # What follows a question mark may be a key.
        self._watch = ServerWatch(base_url.partition("?")[0])
        self._thread = LoopThread("rlff-server")
        self.pid = self._thread.pid
        self._client = AsyncOpenAI(
            base_url=base_url,
            # Without one the client would send the key that it finds in the environment.
            api_key=api_key or "none",
            timeout=timeout_s,
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
            StoppedRun: If a request is given up though the server has never answered any.
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
            retry=retry_if_exception_type(TransientError),
            wait=self._wait_s,
            stop=GivesUp(self.patience, self._watch),
            before_sleep=lambda state: causes.append(fault_of(state).cause),
            reraise=True,
        )
        try:
            value: T = await attempts(self._attempt, body, read)
        except (TransientError, RefusedError) as error:
            if not self._watch.num_answers:
                # Every other request would fare alike, and all contexts be given up for nothing.
                raise StoppedRun(
                    f"{self.owner}.base_url: {self._watch.url} has not answered once in "
                    f"{self._watch.silent_s:.0f} s: {error}; start the server or mend the address"
                ) from None
            return Reply(value=None, failure=str(error), retries=tuple(causes))
        return Reply(value=value, retries=tuple(causes))

    async def _attempt(self, body: dict[str, Any], read: Callable[[ChatCompletion], T]) -> T:
        async with self._slots:
            try:
                value = read(await self._client.chat.completions.create(**body))
            except FAILURES as error:
                raise self._noted(explained(error, self.owner, self._secret)) from None
            except TransientError as fault:
                raise self._noted(fault) from None
        self._watch.answered()
        return value

    def _noted(self, error: Exception) -> Exception:
        """Tell the watch; a refusal is an answer."""
        if isinstance(error, TransientError):
            self._watch.failed(error)
        else:
            self._watch.answered()
        return error

    def _wait_s(self, state: RetryCallState) -> float:
        return max(self._backoff(state), fault_of(state).retry_after_s)
