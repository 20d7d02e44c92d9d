"""Rate limits and endless answers, of a small server that does to each request as a rule says."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rlff_lightning.engines.chat_model import Answer, Chat, ChatSampling, ChatTurn
from rlff_lightning.engines.server import ServerChatModel
from rlff_lightning.errors import StoppedRun

Rule = Callable[[int, str], str | None]
"""From a request's number and last words to ``Retry-After``, ``drip`` or ``no``, which refuses.

``None`` answers.
"""


class LimitingServer:
    """Answers "Yes." after a moment, turns away or drips; notes when each request came."""

    def __init__(self) -> None:
        self.rule: Rule = lambda number, text: None
        self.came: list[tuple[float, str]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        lock, limiting = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    limiting.came.append((time.monotonic(), asked["messages"][-1]["content"]))
                    pause = limiting.rule(len(limiting.came), limiting.came[-1][1])
                if pause is None:
                    time.sleep(0.1)
                    limiting.may_answer.wait(30)
                choice = {"message": {"role": "assistant", "content": "Yes."}}
                body = json.dumps({"choices": [choice]}).encode()
                self.send_response({None: 200, "drip": 200, "no": 400}.get(pause, 429))
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if pause not in (None, "", "drip", "no"):
                    self.send_header("Retry-After", pause)
                self.end_headers()
                for byte in body if pause == "drip" else ():
                    try:
                        self.wfile.write(bytes([byte]))
                    except OSError:
                        self.close_connection = True
                        return
                    time.sleep(0.5)
                self.wfile.write(body if pause != "drip" else b"")

            def log_message(self, *words: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[LimitingServer]:
    limiting = LimitingServer()
    yield limiting
    limiting.close()


def ask(served: ServerChatModel, *texts: str) -> list[Answer]:
    chats = [Chat(turns=(ChatTurn(role="user", content=text),), seed=0) for text in texts]
    return served.answer(chats, ChatSampling(max_tokens=4))


def model(server: LimitingServer, **settings: Any) -> ServerChatModel:
    return ServerChatModel("m", server.url, **{"max_attempts": 2, "max_wait_s": 0.2, **settings})


def closed_for(server: LimitingServer, seconds: float) -> Rule:
    """Turn everybody away for a time from the first request on."""
    return lambda number, text: None if time.monotonic() > server.came[0][0] + seconds else ""


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_rate_limit_costs_no_attempts_and_is_told_with_its_end(
    server: LimitingServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rlff_lightning.engines.server_patience._TOLD_AFTER_S", 0.5)
    server.rule = closed_for(server, 2.0)
    answers = ask(model(server), *map(str, range(20)))
    assert not any(answer.failure for answer in answers)
    assert {cause for answer in answers for cause in answer.usage.retries} == {"rate limit"}
    assert max(len(answer.usage.retries) for answer in answers) > 1
    asks, again = told(caplog)
    assert re.fullmatch(
        r"http://\S+/v1 asks to slow down \(rate limit: 429 .+\); no request is sent for 0 s, and "
        "longer if need be",
        asks,
    )
    assert re.fullmatch(r"http://\S+/v1 answers again, after \d+ s", again)


def test_the_pause_that_one_request_is_told_holds_all_others_back(server: LimitingServer) -> None:
    is_refused = threading.Event()

    def rule(number: int, text: str) -> str | None:
        if number == 1:
            # Read before the second one's answer, however slowly.
            threading.Timer(0.5, is_refused.set).start()
            return "1.5"
        return None

    server.rule, server.may_answer = rule, is_refused
    answers = ask(model(server, concurrency=2), *map(str, range(6)))
    assert not any(answer.failure for answer in answers)
    assert sum(len(answer.usage.retries) for answer in answers) == 1
    first = server.came[0][0]
    # The second one was under way already.
    assert all(when - first > 1.5 for when, _ in server.came[2:])
    assert len(server.came) == 7


def test_those_who_waited_together_do_not_all_go_at_once(server: LimitingServer) -> None:
    server.rule = closed_for(server, 3.0)
    answers = ask(model(server, max_wait_s=1.0), *map(str, range(30)))
    # After a pause the first one is turned away before most of the others have left: of three or
    # more pauses few meet all.
    num_met = [len(answer.usage.retries) for answer in answers]
    assert 30 <= sum(num_met) < 2.5 * 30


def test_without_any_answer_all_give_up_together(server: LimitingServer) -> None:
    served = model(server, max_outage_s=1.0)
    ask(served, "hello")
    server.rule = lambda number, text: ""
    failed = ask(served, *map(str, range(8)))
    assert all(answer.failure.startswith("rate limit: 429") for answer in failed)
    seen = len(server.came)
    ask(served, *map(str, range(8)))
    assert len(server.came) - seen == 8
    server.rule = lambda number, text: None
    assert not any(answer.failure for answer in ask(served, "a", "b"))


def test_a_request_that_is_always_turned_away_does_not_wait_for_good(
    server: LimitingServer,
) -> None:
    server.rule = lambda number, text: "" if text == "too large" else None
    large, *others = ask(model(server, max_outage_s=2.0), "too large", *map(str, range(9)))
    assert large.failure.startswith("rate limit: 429")
    assert len(large.usage.retries) > 1
    assert not any(answer.failure for answer in others)


def test_a_pause_beyond_the_patience_gives_up_at_once_and_holds_nobody_back(
    server: LimitingServer,
) -> None:
    server.rule = lambda number, text: "3600" if text == "large" else None
    began = time.monotonic()
    ask(model(server), "small")
    large, small = ask(model(server, concurrency=1), "small", "large", "small")[1:]
    assert large.failure.endswith("(asks for a pause of 3600 s)")
    assert not small.failure
    assert time.monotonic() - began < 60


def test_a_server_that_has_only_ever_turned_away_stops_the_run(server: LimitingServer) -> None:
    server.rule = lambda number, text: ""
    with pytest.raises(
        StoppedRun, match=r"has not answered once in \d s: rate limit: 429 .+; come"
    ):
        ask(model(server, max_outage_s=0.3), "hello")


def test_an_answer_that_drips_is_bounded_as_a_whole(server: LimitingServer) -> None:
    # Each byte comes in time; all of them take half a minute.
    server.rule = lambda number, text: "drip" if number == 1 else None
    began = time.monotonic()
    [answer] = ask(model(server, timeout_s=4.0), "hello")
    assert not answer.failure
    assert set(answer.usage.retries) == {"timeout"}
    assert time.monotonic() - began < 25


def test_a_server_that_refuses_whatever_is_asked_stops_the_run(server: LimitingServer) -> None:
    server.rule = lambda number, text: "no"
    with pytest.raises(StoppedRun, match=r"refuses every request, 8 so far: refused: 400 .*mend"):
        ask(model(server, concurrency=1), *map(str, range(20)))
    # Another one or two may be on their way.
    assert 8 <= len(server.came) <= 10


def test_refusals_after_an_answer_fail_alone(server: LimitingServer) -> None:
    server.rule = lambda number, text: "no" if number > 1 else None
    answers = ask(model(server, concurrency=1), *map(str, range(12)))
    assert [answer.failure.startswith("refused: 400") for answer in answers] == [False] + [
        True
    ] * 11
