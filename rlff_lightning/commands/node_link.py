"""What the nodes of a run tell each other: that they live, and what ended them.

torchrun's agents look after their own ranks. A rank that waits for one of a lost node would wait
on, and each agent would blame the first of its own. So the nodes beat in a store of node 0; who
falls silent or reports a failure ends the ranks of all, and all name the same culprit.
"""

import json
import os
import re
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from threading import Event, Thread

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

_BEAT_S = 1.0
_GATHER_S = 15.0
"""Longest time to wait for what other nodes report, before one rank is blamed."""
_SECONDARY = re.compile(
    r"gloo|nccl|DistBackend|DistNetwork|process ?group|connection (closed|reset|refused)"
    r"|broken pipe|timed out|TCPStore|stopped by|SIGTERM",
    re.IGNORECASE,
)
"""A rank that only lost another one says such things."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What ended a node's ranks."""

    who: str
    """Rank and node."""
    cause: str
    """In one line."""
    is_mistake: bool
    """The user's, who was told in this line."""
    time: float
    """When it was seen, by the node's own clock."""

    @property
    def is_secondary(self) -> bool:
        """By its own words the rank only lost another one."""
        return bool(_SECONDARY.search(self.cause))


def first(failures: Iterable[Failure]) -> Failure | None:
    """Pick who is to blame: the earliest that did not only lose another one."""
    return min(failures, key=lambda one: (one.is_secondary, one.time), default=None)


class NodeLink:
    """One node's end; of a single node there is nothing to link.

    Args:
        head: Address of node 0.
        port: Free on node 0.
        node: This node, from 0.
        nodes: Nodes of the run.
        silence_s: Time without a beat after which a node counts as lost.
        patience_s: Longest time to wait for node 0 to start.
    """

    def __init__(
        self,
        head: str,
        port: int,
        *,
        node: int,
        nodes: int,
        silence_s: float,
        patience_s: float = 900.0,
    ) -> None:
        self.head, self.port, self.node, self.nodes = head, port, node, nodes
        self.silence_s, self.patience_s = silence_s, patience_s
        self._store: TCPStore | None = None
        self._seen: dict[int, Failure] = {}
        self._silent: set[int] = set()
        self._done = Event()
        self._round = 0.0
        self._thread = Thread(target=self._watch, name="rlff-nodes", daemon=True)

    def start(self) -> None:
        """Meet the other nodes, and watch them from a thread."""
        if self.nodes > 1:
            self._thread.start()
            if self.node > 0:
                Thread(target=self._watch_head, name="rlff-node-0", daemon=True).start()

    def quiet(self) -> None:
        """Stop watching: this node's ranks have ended."""
        self._done.set()

    def failures(self) -> list[Failure]:
        """Give what other nodes have reported so far."""
        return list(self._seen.values())

    def end(self, failure: Failure | None) -> Failure | None:
        """Report how this node's ranks ended, and agree with the others on who is to blame.

        Args:
            failure: What ended them; ``None`` if nothing did, or if they were ended for another's.

        Returns:
            The failure that came first; ``None`` if all is well.
        """
        self.quiet()
        if self._thread.is_alive():
            self._thread.join(_GATHER_S)
        found = {**self._seen, **({self.node: failure} if failure else {})}
        # A node 0 that is gone without a word keeps whoever asks its store.
        if self._store is not None and not self._thread.is_alive():
            # Once node 0 has ended, what was seen until then is what there is.
            with suppress(DistError):
                found = self._agreed(self._store, found)
        return first(found.values())

    def _agreed(self, store: TCPStore, found: dict[int, Failure]) -> dict[int, Failure]:
        if self.node in found:
            store.set(f"failure/{self.node}", json.dumps(asdict(found[self.node])))
        store.set(f"end/{self.node}", "1")
        others = [n for n in range(self.nodes) if n not in {self.node, *self._silent}]
        beats = {node: store.add(f"beat/{node}", 0) for node in others}
        # After a success only node 0 waits: its store serves the others to their end.
        if found or self.node == 0:
            _wait_for(store, [f"end/{node}" for node in others])
        found = {**self._reported(store), **found}
        for node, beat in beats.items():
            has_ended = store.check([f"end/{node}"])
            if found and not has_ended and store.add(f"beat/{node}", 0) == beat:
                found[node] = self._silence(node, _GATHER_S)
                others.remove(node)
        store.set(f"gone/{self.node}", "1")
        if self.node == 0:
            _wait_for(store, [f"gone/{node}" for node in others])
        return found

    def _silence(self, node: int, seconds: float) -> Failure:
        self._silent.add(node)
        return Failure(
            who=f"node {node} of {self.nodes}",
            cause=f"no sign of life for {seconds:g} s",
            is_mistake=False,
            time=0.0,
        )

    def _watch(self) -> None:
        try:
            store = TCPStore(
                self.head,
                self.port,
                is_master=self.node == 0,
                wait_for_workers=False,
                timeout=timedelta(seconds=self.patience_s),
            )
            store.set_timeout(timedelta(seconds=self.silence_s))
            self._store = store
            self._beat(store)
        except DistError as error:
            if not self._done.is_set():
                reason = " ".join(str(error).split())[:200]
                cause = f"no link to {self.head}:{self.port}: {reason}"
                self._blame(0, Failure(who="node 0", cause=cause, is_mistake=False, time=0.0))

    def _watch_head(self) -> None:
        """Blame node 0 once its store keeps this node waiting: nothing but TCP would end that."""
        while not self._done.wait(_BEAT_S):
            # A thread that has ended was answered, if only by a refusal that it has told.
            is_waiting = self._round and self._thread.is_alive()
            if is_waiting and time.monotonic() - self._round > self.silence_s:
                self._blame(0, self._silence(0, self.silence_s))
                return

    def _beat(self, store: TCPStore) -> None:
        others = [node for node in range(self.nodes) if node != self.node]
        heard = dict.fromkeys(others, (0, time.monotonic()))
        reported: dict[int, float] = {}
        while not self._done.wait(_BEAT_S):
            self._round = time.monotonic()
            store.add(f"beat/{self.node}", 1)
            if self._seen:
                continue  # the ranks are being ended; this node lives on until they are
            for node, failure in self._reported(store).items():
                since = reported.setdefault(node, time.monotonic())
                # Who only lost another rank is blamed if nobody else reports, this node least of
                # all: its own agent may be about to.
                if not failure.is_secondary or time.monotonic() - since > _GATHER_S:
                    self._blame(node, failure)
            for node in others:
                beat, since = heard[node]
                found = store.add(f"beat/{node}", 0)
                if found != beat or found == 0 or store.check([f"end/{node}"]):
                    heard[node] = (found, time.monotonic())
                elif time.monotonic() - since > self.silence_s:
                    self._blame(node, self._silence(node, self.silence_s))

    def _reported(self, store: TCPStore) -> dict[int, Failure]:
        keys = {n: f"failure/{n}" for n in range(self.nodes) if n != self.node}
        return {
            node: Failure(**json.loads(store.get(key)))
            for node, key in keys.items()
            if store.check([key])
        }

    def _blame(self, node: int, failure: Failure) -> None:
        """End this node's ranks for another's failure."""
        is_first = not self._seen
        self._seen[node] = failure
        if is_first and not self._done.is_set():
            os.kill(os.getpid(), signal.SIGTERM)


def _wait_for(store: TCPStore, keys: list[str]) -> None:
    end = time.monotonic() + _GATHER_S
    while keys and not store.check(keys) and time.monotonic() < end:
        time.sleep(0.1)
