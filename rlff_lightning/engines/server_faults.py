"""What can go wrong with a request to a server: what is tried again, and what never helps."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time

import openai

from rlff_lightning.engines.chat_model import FaultCause
from rlff_lightning.errors import UserError

_MAX_REASON = 300
_AWAY = (502, 503, 504)
"""A gateway's word for a server that is not there, or not yet."""


class TransientError(Exception):
    """A request failed in a way that may pass.

    Args:
        cause: As it is counted.
        reason: As it is told.
        retry_after_s: Pause that the server asks for, seconds.
        is_away: No server was found, be it by the client or by a gateway before it.
    """

    def __init__(
        self,
        cause: FaultCause,
        reason: str,
        retry_after_s: float = 0.0,
        *,
        is_away: bool = False,
    ) -> None:
        super().__init__(f"{cause}: {_line(reason)}")
        self.cause: FaultCause = cause
        self.retry_after_s = retry_after_s
        self.is_away = is_away


class RefusedError(Exception):
    """The server refuses this request, and would again; other requests may pass."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"refused: {_line(reason)}")


FAILURES = (openai.OpenAIError, TimeoutError, ValueError, RecursionError)
"""What the client raises when a request fails, or its answer is JSON that cannot be read."""


def explained(error: Exception, owner: str, secret: str, *, is_admitted: bool = False) -> Exception:
    """Tell what a failure of ``FAILURES`` means.

    Args:
        error: What the client raised.
        owner: Whose settings are to be mended if they are at fault.
        secret: Never to be shown, though a server may repeat it.
        is_admitted: The server has answered before: what it forbids is this request, such as a text
            that its moderation takes offence at.

    Returns:
        A ``TransientError``, a ``RefusedError``, or a ``UserError`` if no request can ever pass.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return TransientError("timeout", "no answer in time")
    if isinstance(error, openai.APIConnectionError):
        reason = _masked(str(error.__cause__ or error), secret) or "connection lost"
        return TransientError("connection", reason, is_away=True)
    if isinstance(error, openai.APIStatusError):
        reason = f"{error.status_code} {_masked(error.message, secret)}"
        is_forbidden = error.status_code == 403 and is_admitted
        return RefusedError(reason) if is_forbidden else _of_status(error, reason, owner)
    return TransientError("bad answer", f"no valid JSON ({type(error).__name__})")


def _of_status(error: openai.APIStatusError, reason: str, owner: str) -> Exception:
    status = error.status_code
    if status == 429:
        pause_s = _retry_after_s(error.response.headers)
        asked = f" (asks for a pause of {pause_s:.0f} s)" if pause_s else ""
        return TransientError("rate limit", reason + asked, pause_s)
    if status >= 500:
        pause_s = _retry_after_s(error.response.headers)
        return TransientError("server error", reason, pause_s, is_away=status in _AWAY)
    if status == 408:
        return TransientError("timeout", reason)
    if status in (401, 403):
        return UserError(f"{owner}.api_key_variable: the server denies access: {_line(reason)}")
    if status == 404:
        return UserError(f"{owner}.model or base_url is unknown to the server: {_line(reason)}")
    return RefusedError(reason)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Read ``Retry-After``: seconds, or a date; 0 without one."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, OverflowError):
        return 0.0


def _masked(text: str, secret: str) -> str:
    return text.replace(secret, "***") if secret else text


def _line(reason: str) -> str:
    # Half a character, as JSON may hold it, could be written to no file.
    whole = reason.encode("utf-8", "replace").decode("utf-8")
    return " ".join(whole.split())[:_MAX_REASON]
