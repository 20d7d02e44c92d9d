"""What a pool says to a server, held against one that speaks vLLM's part of it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rlff_lightning.engines.pool_server import PoolServer
from rlff_lightning.engines.pool_session import PoolPatience, PoolSession


class Forgetful(ThreadingHTTPServer):
    """Knows adapters by name as vLLM does; answers to some routes get lost, once each."""

    daemon_threads = True

    def __init__(self) -> None:
        self.served = ["pocket"]
        self.posts: list[tuple[str, str]] = []
        self.lost: list[str] = []
        super().__init__(("127.0.0.1", 0), _Answers)


class _Answers(BaseHTTPRequestHandler):
    server: Forgetful

    def do_GET(self) -> None:
        self._answer(200, {"data": [{"id": name} for name in self.server.served]})

    def do_POST(self) -> None:
        route = self.path.rpartition("/")[2]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["lora_name"]
        self.server.posts.append((route, name))
        is_known = name in self.server.served
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
def forgetful() -> Iterator[Forgetful]:
    with Forgetful() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_lost_answer_about_an_adapter_ends_no_run_and_leaves_the_new_adapter_alone(
    forgetful: Forgetful,
) -> None:
    def met() -> list[PoolServer]:
        url = f"http://127.0.0.1:{forgetful.server_address[1]}/v1"
        server = PoolServer(url, api_key="", concurrency=1, timeout_s=60.0, health_timeout_s=60.0)
        server.max_model_len = 512  # as if it had been introduced
        return [server]

    patience = PoolPatience(max_attempts=2, health_interval_s=0.1, max_outage_s=120.0)
    session = PoolSession(met, model="pocket", patience=patience, offset=0)
    for version, lost in (("v1", []), ("v2", ["load_lora_adapter", "unload_lora_adapter"])):
        forgetful.lost += lost
        session.on_each(lambda server, name=version: server.serve_adapter(name, "/folder"))  # type: ignore[misc]
        session.on_each(lambda server, name=version: server.drop_adapters(keep=name))  # type: ignore[misc]
        session.model = version
        session.refresh()
        assert forgetful.served == ["pocket", version]
    assert forgetful.posts == [
        ("load_lora_adapter", "v1"),
        ("load_lora_adapter", "v2"),
        # The second is refused, as one of an adapter that is not there.
        ("unload_lora_adapter", "v1"),
        ("unload_lora_adapter", "v1"),
    ]
    session.close(lambda server: server.drop_adapters())
    assert forgetful.served == ["pocket"]
