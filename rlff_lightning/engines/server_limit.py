"""A server that asks to slow down: one pause for all requests, however many it turned away."""

import asyncio
from random import uniform
from time import monotonic

from rlff_lightning.engines.server_faults import TransientError
from rlff_lightning.engines.server_patience import Patience, ServerWatch

_FIRST_PAUSE_S = 0.5


class RateLimit:
    """Holds all requests back while the server asks for it.

    The pause is the one that the server names, or one that doubles for as long as it answers
    nobody. A request that is turned away has cost the server nothing and says nothing of the
    request, so it is no attempt: waiting ends with the patience for an outage.

    Args:
        patience: The limits.
        watch: Of the server.
    """

    def __init__(self, patience: Patience, watch: ServerWatch) -> None:
        self._patience = patience
        self._watch = watch
        self._until = self._met_at = 0.0
        self._pause_s = 0.0
        self._num_answers = 0

    async def passed(self) -> float:
        """Wait for the end of the pause, and a moment more, for not all may go at once.

        Returns:
            The time.
        """
        while (left_s := self._until - monotonic()) > 0:
            await asyncio.sleep(left_s + uniform(0, min(1.0, self._patience.max_wait_s)))
        return monotonic()

    def met(self, fault: TransientError, *, asked_at: float, waits_since: float) -> bool:
        """Hold everyone back, for a request that was turned away.

        Args:
            fault: Names the pause that the server asks for, if it does.
            asked_at: When the request was sent.
            waits_since: When it was sent first.

        Returns:
            Whether waiting is of any use; if not, nobody is held back.
        """
        now = monotonic()
        if self._watch.num_answers > self._num_answers:
            self._pause_s, self._num_answers = 0.0, self._watch.num_answers
        # Of many that were under way together, the first one decides.
        if asked_at >= self._met_at:
            self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), self._patience.max_wait_s)
            self._met_at = now
        pause_s = max(self._pause_s, fault.retry_after_s)
        waited_s = max(self._watch.silent_s, now - waits_since)
        if waited_s + pause_s > self._patience.max_outage_s:
            return False
        self._until = max(self._until, now + pause_s)
        self._watch.told_to_wait(fault, self._until - now)
        return True
