"""Exceptions that are told in one line: a user's mistake, and a run that cannot go on."""


class UserError(ValueError):
    """Input that cannot be used: one line that says what, where and what is accepted.

    The command line prints the message alone and exits with status 2; ``RLFF_DEBUG=1`` adds the
    traceback.
    """


class StoppedRun(RuntimeError):  # noqa: N818
    """A run that cannot go on though nobody made a mistake: one line with the numbers.

    The command line prints the message alone and exits with status 1; ``RLFF_DEBUG=1`` adds the
    traceback. With ``--ckpt_path last`` the next start goes on.
    """
