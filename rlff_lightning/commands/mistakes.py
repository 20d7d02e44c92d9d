"""Which exceptions are a user's mistake, and the one line that each is told in."""

from rlff_lightning.errors import UserError

_USER_ERROR = f"{UserError.__module__}.{UserError.__qualname__}: "


def mistake(error: BaseException) -> str | None:
    """Say in one line what the user did wrong, or return `None` if it was not the user.

    A `UserError` counts also when another exception was raised from it, and when it comes from
    another process as text: from a worker of a DataLoader or a spawned rank.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError) or type(cause).__name__ == "MisconfigurationException":
            return one_line(str(cause))
        cause = cause.__cause__
    _, found, rest = str(error).rpartition(_USER_ERROR)
    return one_line(rest) if found else None


def one_line(text: str) -> str:
    """Drop a traceback carried in `text`, then join its lines."""
    return " ".join(text.rpartition(_USER_ERROR)[2].split())
