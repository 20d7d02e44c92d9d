"""Requests spread over the servers of a pool, and asked again elsewhere where one fails."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from rlff_lightning.engines.loop_thread import LoopThread
from rlff_lightning.engines.pool_server import PoolServer
from rlff_lightning.engines.server_faults import FAILURES, RefusedError, TransientError, explained
from rlff_lightning.errors import StoppedRun, UserError

T = TypeVar("T")

_log = logging.getLogger(__name__)


class PoolPatience(NamedTuple):
    """How long a pool is waited for."""

    max_attempts: int
    """Attempts of one request, on whichever server."""
    health_interval_s: float
    """Time between health checks while requests are in flight."""
    max_outage_s: float
    """Time without any server in service after which the run stops."""


class Job(NamedTuple):
    """A completion request."""

    body: dict[str, Any]
    """Without the model's name."""
    group: int
    """Requests of one group go to one server, which computes their shared prompt once."""


class PoolSession:
    """Connections to all servers; belongs to the process that made it.

    Args:
        servers: Makes them, within the session's event loop.
        model: Name of the base model, as all servers know it.
        patience: How long the pool is waited for.
        offset: Moves the first choice of a server, so that ranks do not all begin with one.
    """

    def __init__(
        self,
        servers: Callable[[], list[PoolServer]],
        *,
        model: str,
        patience: PoolPatience,
        offset: int,
    ) -> None:
        self.base = self.model = model
        """Name that requests ask for: the base's, or the current adapter's."""
        self.version: str | None = None
        """Of the weights that servers must have; ``None`` before the first update of all."""
        self.patience = patience
        self.num_restarts = 0
        """Requests that were asked again so far."""
        self._offset = offset
        self._thread = LoopThread("rlff-pool")
        self.pid = self._thread.pid

        async def made() -> list[PoolServer]:
            return servers()

        self.servers = self._thread.run(made())
        self.refresh()

    @property
    def max_model_len(self) -> int:
        """Most tokens that every server seen so far takes."""
        return min(server.max_model_len for server in self.servers if server.max_model_len)

    def send(self, jobs: Sequence[Job], read: Callable[[Any], T]) -> list[T]:
        """Send completion requests and wait for all.

        Args:
            jobs: The requests.
            read: Takes an answer apart; raises ``TransientError`` if it is none.

        Returns:
            What was read, in order.

        Raises:
            StoppedRun: If a request failed on every attempt, or no server is left.
        """
        return self._thread.run(self._send_all(jobs, read, self.servers))

    def send_to_each(self, jobs: Sequence[Job], read: Callable[[Any], T]) -> dict[str, list[T]]:
        """Send the same requests to every server in service.

        Returns:
            What was read by server; one that fails meanwhile leaves service and is left out.
        """
        return self._thread.run(self._send_to_each(jobs, read))

    def on_each(self, act: Callable[[PoolServer], Awaitable[None]]) -> None:
        """Act on every server that answers; the others leave service.

        Raises:
            StoppedRun: If no server answers in time.
            UserError: If a server refuses.
        """
        self._thread.run(self._on_each(act))

    def refresh(self) -> None:
        """Meet servers that are new, check all after what they should serve has changed.

        Raises:
            StoppedRun: If none is in service in time.
            UserError: If a new one cannot be used.
        """
        self.on_each(_nothing)
        self._thread.run(self._wait_for_one())

    def close(self, last: Callable[[PoolServer], Awaitable[None]]) -> None:
        """Act a last time on servers in service, then close the connections."""
        self._thread.run(self._close(last))
        self._thread.close()

    async def _close(self, last: Callable[[PoolServer], Awaitable[None]]) -> None:
        for server in self.servers:
            if server.is_up:
                try:
                    await last(server)
                except FAILURES as error:
                    _log.warning("%s: not tidied up: %s", server.url, error)
            await server.close()

    async def _on_each(self, act: Callable[[PoolServer], Awaitable[None]]) -> None:
        began = monotonic()
        while True:
            results = await asyncio.gather(*(self._reached(s, act) for s in self.servers))
            if any(results):
                return
            await self._pause(began)

    async def _reached(
        self, server: PoolServer, act: Callable[[PoolServer], Awaitable[None]]
    ) -> bool:
        try:
            await server.introduce(self.base)
            await server.ask("health")
            await act(server)
        except UserError:  # a ValueError too, but none that passes with time
            raise
        except FAILURES as error:
            server.retire(str(explained(error, "ServerPoolEngine", "")))
            return False
        return True

    async def _wait_for_one(self) -> None:
        began = monotonic()
        while True:
            await self._check_all()
            if any(server.is_up for server in self.servers):
                return
            await self._pause(began)

    async def _pause(self, began: float) -> None:
        """Wait for a server to come back, or give up."""
        if monotonic() - began > self.patience.max_outage_s:
            unproved = "is not proved to have the current weights"
            faults = "; ".join(f"{one.url}: {one.fault or unproved}" for one in self.servers)
            raise StoppedRun(
                f"no server of the pool was in service for {self.patience.max_outage_s:g} s: "
                f"{faults}"
            )
        await asyncio.sleep(min(self.patience.health_interval_s, self.patience.max_outage_s))

    async def _check_all(self) -> None:
        await asyncio.gather(*(self._check(server) for server in self.servers))

    async def _check(self, server: PoolServer) -> None:
        if not server.max_model_len:
            return  # it joins at the next sync
        was_up = server.is_up
        await server.check(self.model, self.version)
        if was_up and not server.is_up:
            _log.warning("%s left the pool: %s", server.url, server.fault)

    async def _send_all(
        self, jobs: Sequence[Job], read: Callable[[Any], T], among: Sequence[PoolServer]
    ) -> list[T]:
        # A server may have gone, or lost its adapter, since the last call.
        await self._check_all()
        homes: dict[int, PoolServer] = {}
        watch = asyncio.ensure_future(self._watch())
        tasks = [asyncio.ensure_future(self._send(job, read, homes, among)) for job in jobs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in (*tasks, watch):
                task.cancel()

    async def _send_to_each(
        self, jobs: Sequence[Job], read: Callable[[Any], T]
    ) -> dict[str, list[T]]:
        await self._wait_for_one()
        found = {}
        for server in [server for server in self.servers if server.is_up]:
            try:
                found[server.url] = await self._send_all(jobs, read, [server])
                server.proved = self._weights
            except StoppedRun:
                if server.is_up:
                    raise
        if not found:
            raise StoppedRun("no server of the pool answered the probe of its weights")
        return found

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.patience.health_interval_s)
            await self._check_all()

    async def _send(
        self,
        job: Job,
        read: Callable[[Any], T],
        homes: dict[int, PoolServer],
        among: Sequence[PoolServer],
    ) -> T:
        fault, failed = "", None
        for attempt in range(self.patience.max_attempts):
            server = await self._home(job.group, homes, among, failed)
            server.load += 1
            try:
                return await server.complete({"model": self.model, **job.body}, read)
            except TransientError as error:
                fault, failed = f"{server.url}: {error}", server
                self.num_restarts += 1
                await self._check(server)
                if server.is_up:
                    await asyncio.sleep(min(0.2 * 2**attempt, 5.0))
            except RefusedError as error:
                raise StoppedRun(f"{server.url}: {error}") from None
            finally:
                server.load -= 1
        raise StoppedRun(
            f"a request failed on each of {self.patience.max_attempts} attempts, last {fault}"
        )

    async def _home(
        self,
        group: int,
        homes: dict[int, PoolServer],
        among: Sequence[PoolServer],
        failed: PoolServer | None,
    ) -> PoolServer:
        """Give a group's server, or the least busy one; where it failed, rather another."""
        home = homes.get(group)
        if home is not None and home.is_up and home is not failed:
            return home
        began = monotonic()
        while not self._serving(among):
            if len(among) < len(self.servers):
                raise StoppedRun(f"{among[0].url}: {among[0].fault}")
            await self._pause(began)
            await self._check_all()
        places = range(len(among))
        turned = [among[(place + self._offset) % len(among)] for place in places]
        homes[group] = min(
            self._serving(turned),
            key=lambda server: (server is failed, server.load),
        )
        return homes[group]

    @property
    def _weights(self) -> str:
        """Name of what servers must have at the moment."""
        return f"{self.model} {self.version}"

    def _serving(self, among: Sequence[PoolServer]) -> list[PoolServer]:
        """Give those in service; where some are proved to have the current weights, these alone."""
        up = [server for server in among if server.is_up]
        proved = {server.url for server in self.servers if server.proved == self._weights}
        is_chosen = len(among) < len(self.servers)  # one of several, to be proved
        return up if is_chosen or not proved else [server for server in up if server.url in proved]


async def _nothing(_: PoolServer) -> None:
    return
