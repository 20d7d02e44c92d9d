"""How long a server is waited for: when it stopped answering, and when a request is given up."""

import logging
from dataclasses import dataclass
from time import monotonic

from tenacity import RetryCallState

from rlff_lightning.engines.server_faults import TransientError

_log = logging.getLogger(__name__)
_TOLD_AFTER_S = 5.0
"""Shorter gaps are the daily business of retries; only the counts tell of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a request is tried."""

    max_attempts: int
    """Attempts of one request, those of an outage or a rate limit aside."""
    max_wait_s: float
    """Longest pause between two attempts that the server did not ask for, seconds."""
    max_outage_s: float
    """Time without any answer from the server after which requests give up, seconds."""


class ServerWatch:
    """Notes since when a server gives no answer to any request, and tells of it once.

    Args:
        url: As messages name the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.num_answers = 0
        self.num_refusals = 0
        self._silent_since: float | None = None
        self._is_told = False
        self._wait_told_after_s = _TOLD_AFTER_S

    @property
    def silent_s(self) -> float:
        """Seconds since the first fault after the last answer; 0 if the last came after it."""
        return 0.0 if self._silent_since is None else monotonic() - self._silent_since

    @property
    def is_of_use(self) -> bool:
        """Whether a request has ever got what it asked for."""
        return self.num_answers > self.num_refusals

    def refused(self) -> None:
        """Note a refusal, which is an answer."""
        self.answered()
        self.num_refusals += 1

    def answered(self) -> None:
        """Note an answer."""
        if self._is_told:
            _log.warning("%s answers again, after %.0f s", self.url, self.silent_s)
        self.num_answers += 1
        self._silent_since, self._is_told = None, False

    def failed(self, fault: TransientError) -> None:
        """Note a fault."""
        if self._silent_since is None:
            self._silent_since = monotonic()
        is_told_apart = fault.cause == "rate limit"
        if not (self._is_told or is_told_apart) and self.silent_s > _TOLD_AFTER_S:
            _log.warning("%s gives no answer (%s); trying again", self.url, fault)
            self._is_told = True

    def told_to_wait(self, fault: TransientError, pause_s: float) -> None:
        """Note that all requests are held back for a time, seconds.

        A limit may meet a run every minute: each time that it is told, twice as long a silence is
        worth the next line.
        """
        if not self._is_told and self.silent_s + pause_s > self._wait_told_after_s:
            self._wait_told_after_s *= 2
            _log.warning(
                "%s asks to slow down (%s); no request is sent for %.0f s, and longer if need be",
                *(self.url, fault, pause_s),
            )
            self._is_told = True


class GivesUp:
    """Decides when one request has been tried often enough.

    An attempt that finds no server is held against its request only if another request was
    answered since the attempt before. So an outage costs no attempts, and yet a request that itself
    brings the server down is given up.

    Args:
        patience: The limits.
        watch: Of the server.
    """

    def __init__(self, patience: Patience, watch: ServerWatch) -> None:
        self._patience = patience
        self._watch = watch
        self._num_attempts = 0
        self._num_answers = watch.num_answers

    def __call__(self, state: RetryCallState) -> bool:
        """Tell, once after every failed attempt, whether it was the last."""
        if not fault_of(state).is_away or self._watch.num_answers > self._num_answers:
            self._num_attempts += 1
        self._num_answers = self._watch.num_answers
        silent_s = self._watch.silent_s + state.upcoming_sleep
        is_used_up = self._num_attempts >= self._patience.max_attempts
        return is_used_up or silent_s > self._patience.max_outage_s


def fault_of(state: RetryCallState) -> TransientError:
    """Give the fault of an attempt that failed."""
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TransientError)
    return error
