"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """Input that cannot be used: one line that says what, where and what is accepted.

    The command line prints the message alone and exits with status 2; ``RLFF_DEBUG=1`` adds the
    traceback.
    """
