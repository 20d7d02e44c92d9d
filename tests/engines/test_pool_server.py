"""What a pool says to a server, held against one that speaks vLLM's part of it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rlff_lightning.engines.pool_server import PoolServer
from rlff_lightning.engines.pool_session import Job, PoolPatience, PoolSession
from rlff_lightning.errors import UserError


class Forgetful(ThreadingHTTPServer):
    """Knows adapters by name as vLLM does; answers to some routes get lost, once each."""

    daemon_threads = True

    def __init__(self) -> None:
        self.served = ["pocket"]
        self.roots: dict[str, str] = {}
        self.posts: list[tuple[str, str]] = []
        self.lost: list[str] = []
        self.choices: list[Any] = []
        """Of every completion."""
        self.is_broken = False
        """Answers nothing but 503."""
        self.is_read_only = False
        """Answers 503 to what would change it."""
        super().__init__(("127.0.0.1", 0), _Answers)


class _Answers(BaseHTTPRequestHandler):
    server: Forgetful

    def do_GET(self) -> None:
        self._answer(
            503 if self.server.is_broken else 200,
            {
                "data": [{"id": n, "root": self.server.roots.get(n)} for n in self.server.served],
                "is_paused": False,
            },
        )

    def do_POST(self) -> None:
        route = self.path.rpartition("/")[2]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["model" if route == "completions" else "lora_name"]
        self.server.posts.append((route, name))
        if self.server.is_broken or self.server.is_read_only:
            self._answer(503, {"error": {"message": "worker lost"}})
            return
        if route == "completions":
            answer = {"id": "", "object": "text_completion", "created": 0, "model": name}
            self._answer(200, {**answer, "choices": self.server.choices})
            return
        is_known = name in self.server.served
        self.server.roots[name] = body.get("lora_path", "")
        if is_known is (route == "load_lora_adapter"):
            # vLLM's words for a name that is taken, or unknown.
            self._answer(400 if is_known else 404, {"error": {"message": "already been loaded"}})
            return
        (self.server.served.remove if is_known else self.server.served.append)(name)
        if route in self.server.lost:
            self.server.lost.remove(route)
            self.close_connection = True
            return
        self._answer(200, {})

    def _answer(self, status: int, content: Any) -> None:
        written = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(written)))
        self.end_headers()
        self.wfile.write(written)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def forgetful() -> Iterator[list[Forgetful]]:
    """Two servers."""
    with Forgetful() as first, Forgetful() as second:
        for server in (first, second):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield [first, second]
        for server in (first, second):
            server.shutdown()


def session_of(*targets: Forgetful) -> PoolSession:
    def met() -> list[PoolServer]:
        limits = {"api_key": "", "concurrency": 1, "timeout_s": 60.0, "health_timeout_s": 60.0}
        urls = [f"http://127.0.0.1:{target.server_address[1]}/v1" for target in targets]
        servers = [PoolServer(url, **limits) for url in urls]  # type: ignore[arg-type]
        for server in servers:
            server.max_model_len = 512  # as if it had been introduced
        return servers

    patience = PoolPatience(max_attempts=2, health_interval_s=0.1, max_outage_s=120.0)
    return PoolSession(met, model="pocket", patience=patience, offset=0)


def test_what_a_killed_trainer_left_loaded_is_dropped_by_its_next_life_alone(
    forgetful: list[Forgetful],
) -> None:
    server, _ = forgetful
    for life, folder in (("a", "/run"), ("b", "/other"), ("c", "/run")):
        session = session_of(server)
        for number in (1, 2):
            name, path = f"{life}-{number}", f"{folder}/node-0/adapter-{number}"
            session.on_each(lambda one, n=name, p=path: one.serve_adapter(n, p))  # type: ignore[misc]
            session.on_each(lambda one, n=name: one.drop_adapters(keep=n))  # type: ignore[misc]

        async def nothing(_: PoolServer) -> None:
            """Killed: it tidies nothing up."""

        session.close(nothing)
    assert server.served == ["pocket", "b-2", "c-2"]


def serve(session: PoolSession, name: str) -> None:
    session.on_each(lambda server: server.serve_adapter(name, "/folder"))
    session.model = name
    session.refresh()


def test_a_server_that_fails_to_load_an_adapter_leaves_service_and_the_run_goes_on(
    forgetful: list[Forgetful],
) -> None:
    session = session_of(*forgetful)
    forgetful[1].is_read_only = True
    serve(session, "v1")
    assert [server.is_up for server in session.servers] == [True, False]
    session.close(lambda server: server.drop_adapters())


def test_a_server_that_was_away_at_the_proof_serves_only_after_the_next_one(
    forgetful: list[Forgetful],
) -> None:
    session = session_of(*forgetful)
    jobs = [Job({"prompt": [number]}, number) for number in range(8)]
    serve(session, "v1")
    assert [server.is_up for server in session.servers] == [True, True]
    for version, is_away in (("v1", True), ("v2", False)):
        serve(session, version)
        forgetful[1].is_broken = is_away
        assert len(session.send_to_each(jobs, lambda answer: answer.model)) == 2 - is_away
        forgetful[1].is_broken = False
        asked = [server.posts.count(("completions", version)) for server in forgetful]
        session.send(jobs, lambda answer: answer.model)
        assert [server.is_up for server in session.servers] == [True, True]
        later = [server.posts.count(("completions", version)) for server in forgetful]
        new = [after - before for before, after in zip(asked, later, strict=True)]
        assert new == [8, 0] if is_away else min(new) > 0
    session.close(lambda server: server.drop_adapters())


@pytest.mark.parametrize(
    "choices",
    [
        [],
        [{"index": 0, "text": "", "finish_reason": "length", "logprobs": None}],
        [
            {
                "index": 0,
                "text": "",
                "finish_reason": "length",
                # Of the likeliest tokens alone, as older servers answer.
                "logprobs": {"top_logprobs": [{"token_id:7": -0.1, "token_id:9": -3.0}]},
            }
        ],
    ],
    ids=["no choice", "no log-probabilities", "of other tokens"],
)
def test_a_server_that_gives_no_log_probabilities_of_named_tokens_is_named_in_one_line(
    forgetful: list[Forgetful], choices: list[Any]
) -> None:
    session = session_of(forgetful[0])
    forgetful[0].choices = choices
    session.servers[0].max_model_len = 0
    with pytest.raises(UserError, match=r"127.0.0.1:\d+/v1 must give .* \(logprob_token_ids\), as"):
        session.refresh()
    session.close(lambda server: server.drop_adapters())


def test_a_lost_answer_about_an_adapter_ends_no_run_and_leaves_the_new_adapter_alone(
    forgetful: list[Forgetful],
) -> None:
    server, _ = forgetful
    session = session_of(server)
    for version, lost in (("v1", []), ("v2", ["load_lora_adapter", "unload_lora_adapter"])):
        server.lost += lost
        session.on_each(lambda one, name=version: one.serve_adapter(name, "/folder"))  # type: ignore[misc]
        session.on_each(lambda one, name=version: one.drop_adapters(keep=name))  # type: ignore[misc]
        session.model = version
        session.refresh()
        assert server.served == ["pocket", version]
    assert server.posts == [
        ("load_lora_adapter", "v1"),
        ("load_lora_adapter", "v2"),
        # The second is refused, as one of an adapter that is not there.
        ("unload_lora_adapter", "v1"),
        ("unload_lora_adapter", "v1"),
    ]
    session.close(lambda server: server.drop_adapters())
    assert server.served == ["pocket"]
