"""Short completions as questions about single next tokens, each prefix asked once."""

from collections.abc import Mapping, Sequence

Prefix = tuple[int, ...]
"""A prompt and the beginning of a completion."""


def next_tokens(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> dict[Prefix, list[int]]:
    """List the tokens whose log-probability is needed behind each different prefix."""
    asked: dict[Prefix, list[int]] = {}
    for prompt, completion in zip(prompts, completions, strict=True):
        for place, token in enumerate(completion):
            known = asked.setdefault((*prompt, *completion[:place]), [])
            if token not in known:
                known.append(token)
    return asked


def read_next_tokens(
    found: Mapping[Prefix, Mapping[int, float]],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> list[list[float]]:
    """Put the answers together: the log-probability of every completion token."""
    return [
        [found[(*prompt, *completion[:place])][token] for place, token in enumerate(completion)]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
