"""What a failed request means, without a server."""

from types import SimpleNamespace

import httpx
import openai
import pytest

from rlff_lightning.engines.server import api_key
from rlff_lightning.engines.server_answers import _tokens
from rlff_lightning.engines.server_faults import FAILURES, RefusedError, TransientError, explained
from rlff_lightning.errors import UserError

REQUEST = httpx.Request("POST", "http://localhost/v1/chat/completions")


def lost(cause: str) -> openai.APIConnectionError:
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = httpx.LocalProtocolError(cause)
    return error


def refused(status: int, message: str, **headers: str) -> openai.APIStatusError:
    response = httpx.Response(status, request=REQUEST, headers=headers)
    return openai.APIStatusError(message, response=response, body=None)


def test_a_key_is_masked_in_every_reason() -> None:
    for error in (lost("Illegal header value b'Bearer sk-1'"), refused(500, "who is sk-1?")):
        found = explained(error, "Owner", "sk-1")
        assert "sk-1" not in str(found)
        assert "***" in str(found)


def test_a_reason_can_be_written_to_a_file() -> None:
    found = explained(refused(400, "\ud800 bad"), "Owner", "")
    assert str(found).encode("utf-8").endswith(b" bad")


@pytest.mark.parametrize("error", [ValueError("too many digits"), RecursionError()])
def test_json_that_cannot_be_read_is_a_bad_answer(error: Exception) -> None:
    assert isinstance(error, FAILURES)
    found = explained(error, "Owner", "")
    assert isinstance(found, TransientError)
    assert found.cause == "bad answer"


def test_what_is_forbidden_after_an_answer_is_this_request_alone() -> None:
    forbidden = refused(403, "flagged by moderation")
    assert isinstance(explained(forbidden, "Owner", ""), UserError)
    assert isinstance(explained(forbidden, "Owner", "", is_admitted=True), RefusedError)
    assert isinstance(explained(refused(401, "who?"), "Owner", "", is_admitted=True), UserError)


def test_a_users_mistake_stays_one() -> None:
    mistake = UserError("Owner.model must be known")
    assert explained(mistake, "Owner", "") is mistake


def test_a_pause_until_a_year_of_no_calendar_is_none() -> None:
    date = {"retry-after": "1 Jan 99999999999999999999 00:00:00 GMT"}
    found = explained(refused(429, "slower", **date), "Owner", "")
    assert isinstance(found, TransientError)
    assert found.retry_after_s == 0


def test_counts_that_are_no_numbers_count_nothing() -> None:
    usage = SimpleNamespace(prompt_tokens="abc", completion_tokens=3)
    assert _tokens(SimpleNamespace(usage=usage)) == (0, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["sk-1\r", "sk-1 ", "sk-\u00fc"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(UserError, match="SOME_KEY must hold a key of printable ASCII") as found:
        api_key("Owner", "SOME_KEY")
    assert "sk-" not in str(found.value)


def test_a_key_given_as_a_variables_name_is_not_shown() -> None:
    with pytest.raises(UserError, match="api_key_variable") as found:
        api_key("Owner", "gsk_abcdef")
    assert "gsk_" not in str(found.value)
