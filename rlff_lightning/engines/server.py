"""Chats with any server that speaks OpenAI's API."""

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from rlff_lightning.engines.chat_model import (
    Answer,
    Chat,
    ChatModel,
    ChatSampling,
    OptionScores,
    Usage,
    check_options,
)
from rlff_lightning.errors import UserError

if TYPE_CHECKING:
    from rlff_lightning.engines.server_session import ServerSession

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_MAX_CONCURRENCY = 1000


class ServerChatModel(ChatModel):
    """Answers by a server's chat completions, many at once.

    A request that fails for a reason that may pass (time-out, 429, 5xx, lost connection, invalid
    JSON, no choices) is sent again after a pause that doubles, with jitter, or that the server
    names; after a 429 the pause is everyone's. Control tokens within a text are broken by a space.

    Args:
        model: Name under which the server knows the model.
        base_url: Of the API, e.g. ``http://127.0.0.1:8000/v1``.
        api_key_variable: Environment variable that holds the key; ``None`` sends none. The key
            itself is never written or logged.
        concurrency: Most requests in flight, at most 1000.
        timeout_s: Longest time for one attempt, from the request to the last byte of its answer.
        max_attempts: Attempts of a request before its conversation is broken off; those that find
            no server do not count while it answers nobody, nor those that a rate limit turns away.
        max_wait_s: Longest pause between attempts that the server did not ask for.
        max_outage_s: After this time without any answer to any request, every one gives up; so
            does one that a rate limit turns away for as long. Half an hour is enough for a large
            model to load again. A run whose server never answered stops.
        choice_by: How answers are held to options: ``structured_outputs`` is vLLM's way, and
            ``json_schema`` the one of OpenAI's API, which takes some 10 more tokens.
        extra_body: Added to every request, e.g. ``{chat_template_kwargs: {enable_thinking:
            false}}``.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key_variable: str | None = None,
        concurrency: int = 64,
        timeout_s: float = 120.0,
        max_attempts: int = 12,
        max_wait_s: float = 30.0,
        max_outage_s: float = 1800.0,
        choice_by: Literal["structured_outputs", "json_schema"] = "structured_outputs",
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        check_url("ServerChatModel.base_url", base_url)
        check_variable("ServerChatModel", api_key_variable)
        if not 1 <= concurrency <= _MAX_CONCURRENCY:
            raise UserError(
                f"ServerChatModel.concurrency must be within [1, {_MAX_CONCURRENCY}], "
                f"got {concurrency}"
            )
        for field, value, least in (
            ("timeout_s", timeout_s, 1e-3),
            ("max_attempts", max_attempts, 1),
            ("max_wait_s", max_wait_s, 0),
            ("max_outage_s", max_outage_s, 0),
        ):
            if value < least:
                raise UserError(f"ServerChatModel.{field} must be at least {least}, got {value}")
        self.model = model
        self.base_url = base_url
        self.api_key_variable = api_key_variable
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.max_attempts = max_attempts
        self.max_wait_s = max_wait_s
        self.max_outage_s = max_outage_s
        self.choice_by: Literal["structured_outputs", "json_schema"] = choice_by
        self.extra_body = extra_body or {}
        self._opened: ServerSession | None = None

    @property
    def name(self) -> str:
        return self.model

    @property
    def is_concurrent(self) -> bool:
        return True

    def answer(self, chats: Sequence[Chat], sampling: ChatSampling) -> list[Answer]:
        from rlff_lightning.engines.server_answers import chat_body, read_texts, unwrapped

        bodies = [
            self._extended(chat_body(self.model, chat, sampling, self.choice_by)) for chat in chats
        ]
        copies = sampling.num_samples if sampling.temperature == 0 else 1
        count = sampling.num_samples // copies
        is_wrapped = bool(sampling.choices) and self.choice_by == "json_schema"
        replies = self._session().send(
            bodies,
            lambda answer: (
                unwrapped(read_texts(answer, count)) if is_wrapped else read_texts(answer, count)
            ),
        )
        answers = []
        for reply in replies:
            if reply.value is None:
                usage = Usage(requests=count, retries=reply.retries)
                answers.append(Answer(failure=reply.failure, usage=usage))
                continue
            usage = Usage(
                requests=count,
                retries=reply.retries,
                prompt_tokens=reply.value.prompt_tokens,
                completion_tokens=reply.value.completion_tokens,
            )
            answers.append(Answer(texts=reply.value.texts * copies, usage=usage))
        return answers

    def score(self, chats: Sequence[Chat], options: Sequence[str]) -> list[OptionScores]:
        from rlff_lightning.engines.server_answers import option_logps, read_scores, score_body

        check_options("ServerChatModel.score", options)
        bodies = [
            self._extended(score_body(self.model, chat, option))
            for chat in chats
            for option in options
        ]
        replies = self._session().send(bodies, read_scores)
        scores = []
        for start in range(0, len(replies), len(options)):
            own = replies[start : start + len(options)]
            scored = [reply.value for reply in own if reply.value is not None]
            usage = Usage(
                requests=len(options),
                retries=tuple(cause for reply in own for cause in reply.retries),
                prompt_tokens=sum(len(prompt.token_ids) for prompt in scored),
            )
            failures = [reply.failure for reply in own if reply.value is None]
            if failures:
                scores.append(OptionScores(failure=failures[0], usage=usage))
            else:
                scores.append(OptionScores(logps=option_logps(scored), usage=usage))
        return scores

    def close(self) -> None:
        if self._opened is not None and self._opened.pid == os.getpid():
            self._opened.close()
        self._opened = None

    def _extended(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "extra_body": {**self.extra_body, **body.get("extra_body", {})}}

    def _session(self) -> "ServerSession":
        # A forked process has the session's connections, but not its thread.
        if self._opened is None or self._opened.pid != os.getpid():
            from rlff_lightning.engines.server_patience import Patience
            from rlff_lightning.engines.server_session import ServerSession

            self._opened = ServerSession(
                owner="ServerChatModel",
                base_url=self.base_url,
                api_key=api_key("ServerChatModel", self.api_key_variable),
                concurrency=self.concurrency,
                timeout_s=self.timeout_s,
                patience=Patience(
                    max_attempts=self.max_attempts,
                    max_wait_s=self.max_wait_s,
                    max_outage_s=self.max_outage_s,
                ),
            )
        return self._opened


def check_variable(owner: str, variable: str | None) -> None:
    """Refuse what cannot name an environment variable.

    Raises:
        UserError: If it is no such name.
    """
    if variable is not None and not _VARIABLE.fullmatch(variable):
        # Not shown: it may be the key itself.
        raise UserError(
            f"{owner}.api_key_variable must be the name of an environment variable, "
            "got something else"
        )


def api_key(owner: str, variable: str | None) -> str:
    """Read a server's key from the environment; empty where no variable is named.

    Raises:
        UserError: If the variable holds nothing, or what no header can hold.
    """
    key = os.environ.get(variable, "") if variable is not None else ""
    # Names are in capitals by custom; anything else might be a key given in a name's place.
    shown = variable if variable is not None and variable.isupper() else "that it names"
    if variable is not None and not key:
        raise UserError(
            f"{owner}.api_key_variable: the environment variable {shown} must hold the key, "
            "got nothing"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            f"{owner}.api_key_variable: the environment variable {shown} must hold a key of "
            "printable ASCII without spaces or line ends, got another character"
        )
    return key


def check_url(field: str, url: str) -> None:
    """Refuse what is no server's address, or holds a password.

    Raises:
        UserError: If it cannot be used.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{field} must be an http(s) address, got {url!r}")
    if parts.username or parts.password:
        raise UserError(
            f"{field} must hold no password: name an environment variable in api_key_variable "
            "instead"
        )
