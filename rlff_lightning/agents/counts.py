"""What an agent used up so far; counts of several agents add."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from rlff_lightning.engines.chat_model import Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Requests, tokens and repairs of an agent, from zero. To count: ``self.counts += Counts(…)``.

    Frozen, so that the zeros that every agent begins with can be one object.
    """

    requests: int = 0
    """Completions asked of a model, retries not included."""
    retries: int = 0
    """Requests sent again after a fault: the sum of the five causes that follow."""
    timeouts: int = 0
    """Sent again after no answer in time."""
    lost_connections: int = 0
    """Sent again after a lost or refused connection."""
    rate_limits: int = 0
    """Sent again after the server asked to slow down."""
    server_errors: int = 0
    """Sent again after an error of the server's own."""
    bad_answers: int = 0
    """Sent again after invalid JSON or an answer without choices."""
    failures: int = 0
    """Conversations broken off, as no retry helped."""
    prompt_tokens: int = 0
    """Tokens read."""
    completion_tokens: int = 0
    """Tokens sampled."""
    answers: int = 0
    """Answers of a critic or a judge, unparsed ones included."""
    unparsed: int = 0
    """Those of them that name none of the options."""
    cut: int = 0
    """Messages cut where the speaker began to play the other side."""
    dropped: int = 0
    """Messages whose unfinished last sentence was dropped."""
    empty: int = 0
    """Empty messages, each asked for again."""

    def __add__(self, other: "Counts") -> "Counts":
        """Add field by field."""
        return Counts(
            **{
                field.name: getattr(self, field.name) + getattr(other, field.name)
                for field in fields(Counts)
            }
        )

    def __sub__(self, other: "Counts") -> "Counts":
        """Subtract field by field: what was used since ``other``."""
        return Counts(
            **{
                field.name: getattr(self, field.name) - getattr(other, field.name)
                for field in fields(Counts)
            }
        )


def counted(usages: Iterable[Usage]) -> Counts:
    """Add up what chats took."""
    usages = list(usages)
    causes = [cause for usage in usages for cause in usage.retries]
    return Counts(
        requests=sum(usage.requests for usage in usages),
        retries=len(causes),
        timeouts=causes.count("timeout"),
        lost_connections=causes.count("connection"),
        rate_limits=causes.count("rate limit"),
        server_errors=causes.count("server error"),
        bad_answers=causes.count("bad answer"),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
    )
