"""What every test relies on: no network, no deadline on a busy machine, the command itself."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

Rlff = Callable[..., "subprocess.CompletedProcess[str]"]
TOGETHER = "tests/strategies/"
"""Its files share what one fixture trains for minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what takes longest begin first; else the order stays."""
    items.sort(key=lambda item: not item.nodeid.startswith(TOGETHER))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file to one worker, and that folder."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER if nodeid.startswith(TOGETHER) else super()._split_scope(nodeid)

    return ByFile(config, log)


@pytest.fixture
def rlff(tmp_path: Path) -> Rlff:
    """Run the command as a user does, in a folder of its own."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "rlff_lightning.cli", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def quiet_trainer() -> Callable[..., Any]:
    """Make a Trainer on CPU that writes nothing of its own."""
    import torch
    from lightning.pytorch import Trainer

    # Models this small only wait for a second thread.
    torch.set_num_threads(1)

    def make(folder: Path, **settings: Any) -> Any:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1}
        return Trainer(default_root_dir=folder, **{**quiet, **settings})

    return make


@pytest.fixture(scope="session")
def pocket_folder(
    tmp_path_factory: pytest.TempPathFactory, quiet_trainer: Callable[..., Any]
) -> Path:
    """A language model of 60 thousand weights, after a few steps of the real warm start."""
    from lightning.pytorch import seed_everything

    from rlff_lightning.data.replies import ScriptedReplies
    from rlff_lightning.models.pocket import PocketSettings
    from rlff_lightning.modules.supervised import SupervisedModule

    seed_everything(0, verbose=False)
    folder = tmp_path_factory.mktemp("warm_start")
    module = SupervisedModule(
        pocket=PocketSettings(
            vocab_size=400, hidden_size=32, num_layers=2, num_heads=1, max_positions=512
        ),
        learning_rate=1e-2,
        seeker_weight=0.2,
    )
    data = ScriptedReplies(num_dialogues=60, batch_size=16, val_fraction=0.1)
    quiet_trainer(folder, max_steps=40, limit_val_batches=0).fit(module, data)
    return folder / "model"


@pytest.fixture(scope="session")
def futures_folder(
    tmp_path_factory: pytest.TempPathFactory, quiet_trainer: Callable[..., Any]
) -> Path:
    """Labelled replies to 40 contexts, simulated by the real stage with a scripted cast."""
    from callbacks.futures_writer import FuturesWriter
    from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
    from rlff_lightning.agents.scripted.supporter import MixedSupporter
    from rlff_lightning.modules.simulation import SimulationModule
    from rlff_lightning.simulation.contexts import SelfPlayContexts

    folder = tmp_path_factory.mktemp("futures")
    module = SimulationModule(
        *(MixedSupporter(), ScriptedSeeker(), ScriptedCritic()),
        # Short enough for the pocket model whatever seed the tests before this one left behind.
        contexts=SelfPlayContexts(max_turns=6),
        num_contexts=40,
        batch_size=16,
        seed=0,
    )
    trainer = quiet_trainer(folder, callbacks=[FuturesWriter()])
    trainer.predict(module, return_predictions=False)
    return folder / "futures"


@pytest.fixture(scope="session")
def reward_folder(
    tmp_path_factory: pytest.TempPathFactory,
    quiet_trainer: Callable[..., Any],
    pocket_folder: Path,
    futures_folder: Path,
) -> Path:
    """A reward model, trained for one epoch by the real stage."""
    from lightning.pytorch import seed_everything

    from rlff_lightning.data.labelled import StoredFutures
    from rlff_lightning.models.backbone import Backbone
    from rlff_lightning.modules.reward_model import RewardModule

    seed_everything(0, verbose=False)
    folder = tmp_path_factory.mktemp("reward_model")
    module = RewardModule(Backbone(str(pocket_folder)), learning_rate=3e-3)
    data = StoredFutures(str(futures_folder), batch_size=8)
    quiet_trainer(folder, max_epochs=1, limit_val_batches=0).fit(module, data)
    return folder / "model"


@pytest.fixture(scope="session")
def long_pocket_folder(tmp_path_factory: pytest.TempPathFactory, pocket_folder: Path) -> Path:
    """The warm-started model with room for whole prompts, which it is too small to understand."""
    folder = tmp_path_factory.mktemp("long") / "model"
    shutil.copytree(pocket_folder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 4096
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def two_ranks() -> Callable[..., list[int]]:
    """Run a command as two ranks of one run; give their exit statuses."""

    def run(command: Sequence[str], logs: Sequence[Path], **settings: Any) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        place |= settings.pop("environment", {})
        ranks = []
        for rank, log in enumerate(logs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # Files: a pipe that nobody reads is full soon, and its writer waits.
            with log.open("w") as output:
                ranks.append(
                    subprocess.Popen(
                        command,
                        env={**os.environ, **place, **own},
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        **settings,
                    )
                )
        try:
            return [rank.wait(2400) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()

    return run


_ON_CPU = {
    "VLLM_LOGGING_LEVEL": "INFO",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHON": sys.executable,
}
_SMALL = (
    "--served-model-name pocket --host 127.0.0.1 --dtype float32 --enforce-eager --block-size 32 "
    # vLLM on CPU dies where a prompt with a seed is computed in chunks.
    "--no-enable-chunked-prefill --max-num-batched-tokens 32768 --disable-uvicorn-access-log"
)


class Server:
    """A process that serves on a port of its own; ``url`` is its API's."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env={**os.environ, **_ON_CPU},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 1500
        while not _answers(f"http://127.0.0.1:{self.port}/health"):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def kill(self) -> None:
        """Kill it and the processes that it started, as a node does that loses power."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


@pytest.fixture(scope="session")
def chat_server(
    tmp_path_factory: pytest.TempPathFactory, long_pocket_folder: Path
) -> Iterator[str]:
    """The address of a real vLLM server, which knows its model as ``pocket``."""
    command = f"-m vllm.entrypoints.openai.api_server --model {long_pocket_folder} {_SMALL}"
    command += " --kv-cache-memory-bytes 268435456"
    # So small a model would fill a JSON answer with blanks up to the token limit.
    command += ' --structured-outputs-config {"backend":"xgrammar","disable_any_whitespace":true}'
    log = tmp_path_factory.mktemp("server") / "log.txt"
    server = Server([sys.executable, *command.split()], log)
    try:
        server.wait()
        yield server.url
    finally:
        server.close()


@pytest.fixture(scope="module")
def pool_servers(
    tmp_path_factory: pytest.TempPathFactory, pocket_folder: Path
) -> Iterator[list[Server]]:
    """Two real vLLM servers that take adapters and weights; a test may kill them."""
    script = Path(__file__).parents[1] / "configs" / "launch" / "vllm_server.sh"
    flags = f"{_SMALL} --kv-cache-memory-bytes 67108864 --enable-lora --max-lora-rank 8".split()
    folder = tmp_path_factory.mktemp("pool")
    servers = [
        Server([str(script), str(pocket_folder), *flags], folder / f"{number}.txt")
        for number in range(2)
    ]
    try:
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.close()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class FaultyProxy:
    """Stands before a server and answers some requests itself: with the fault whose turn it is.

    Args:
        upstream: Address of the real server.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.faults: Iterator[str] = iter(())
        self.is_down = False
        self.num_faults = 0
        self.most_at_once = 0
        self._at_once = 0
        self.seen: list[tuple[dict[str, str], dict[str, Any]]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                proxy.handle(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *words: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{self.upstream.path}"

    def handle(self, asked: BaseHTTPRequestHandler, body: bytes) -> None:
        with self._lock:
            headers = {name.lower(): value for name, value in asked.headers.items()}
            self.seen.append((headers, json.loads(body)))
            fault = "drop" if self.is_down else next(self.faults, "")
            self.num_faults += bool(fault)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._answer(asked, body, fault)
        finally:
            with self._lock:
                self._at_once -= 1

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, asked: BaseHTTPRequestHandler, body: bytes, fault: str) -> None:
        if fault in ("drop", "hang"):
            time.sleep(2.0 if fault == "hang" else 0)
            asked.close_connection = True
            asked.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "garbage":
            self._reply(asked, 200, b'{"choices": [{"mess')
        elif fault == "page":
            self._reply(asked, 200, b"<html>Sign in</html>", {"Content-Type": "text/html"})
        elif fault == "empty":
            self._reply(asked, 200, b'{"id": "x", "object": "chat.completion", "choices": []}')
        elif fault == "half a character":
            self._reply(asked, 200, rb'{"choices": [{"message": {"content": "so \ud83d"}}]}')
        elif fault:
            status, _, pause = fault.partition(" after ")
            headers = {"Retry-After": pause} if pause else {}
            # A careless server repeats what it was sent.
            error = {"error": {"message": f"no: {asked.headers['Authorization']}"}}
            self._reply(asked, int(status), json.dumps(error).encode(), headers)
        else:
            self._pass_on(asked, body)

    def _pass_on(self, asked: BaseHTTPRequestHandler, body: bytes) -> None:
        upstream = HTTPConnection(self.upstream.hostname or "", self.upstream.port, timeout=120)
        upstream.request("POST", asked.path, body, {"Content-Type": "application/json"})
        answer = upstream.getresponse()
        self._reply(asked, answer.status, answer.read())
        upstream.close()

    def _reply(
        self,
        asked: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        asked.send_response(status)
        named = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in {**named, **(headers or {})}.items():
            asked.send_header(name, value)
        asked.end_headers()
        asked.wfile.write(body)


@pytest.fixture
def faulty_proxy(chat_server: str) -> Iterator[FaultyProxy]:
    """A proxy in front of the real server, without faults until a test names some."""
    proxy = FaultyProxy(chat_server)
    yield proxy
    proxy.close()
