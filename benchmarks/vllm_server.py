"""vLLM's OpenAI-compatible server on a port of this machine, to be killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from urllib.request import urlopen

_FLAGS = (
    "--served-model-name pocket --host 127.0.0.1 --dtype float32 --enforce-eager --block-size 32 "
    # vLLM on CPU dies where a prompt with a seed is computed in chunks.
    "--no-enable-chunked-prefill --max-num-batched-tokens 32768 --disable-uvicorn-access-log "
    "--kv-cache-memory-bytes 536870912"
)


class LocalServer:
    """Serves a model's folder as ``pocket``, always on the same port; the end of ``with`` ends it.

    Args:
        model: The folder.
    """

    def __init__(self, model: Path) -> None:
        self.model = model
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it and wait until it answers.

        Returns:
            Seconds that it took.
        """
        began = time.monotonic()
        command = f"-m vllm.entrypoints.openai.api_server --model {self.model} {_FLAGS}"
        environment = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, *command.split(), "--port", str(self.port)],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not _is_up(f"http://127.0.0.1:{self.port}/health"):
            if self._process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.5)
        return time.monotonic() - began

    def kill(self) -> None:
        """Kill it and the processes that it started, as a machine does that loses power."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def _is_up(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
