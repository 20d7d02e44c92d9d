"""What an agent used up so far; counts of several agents add."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Requests, tokens and repairs of an agent, from zero. To count: ``self.counts += Counts(…)``.

    Frozen, so that the zeros that every agent begins with can be one object.
    """

    requests: int = 0
    """Completions asked of a model, retries not included."""
    retries: int = 0
    """Requests sent again after a fault."""
    prompt_tokens: int = 0
    """Tokens read."""
    completion_tokens: int = 0
    """Tokens sampled."""
    answers: int = 0
    """Critic answers read, unparsed ones included."""
    unparsed: int = 0
    """Critic answers that name none of the outcomes."""
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
