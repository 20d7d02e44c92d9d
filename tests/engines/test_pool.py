import csv
import json
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rlff_lightning.engines.base import Sampling
from rlff_lightning.engines.pool import ServerPoolEngine
from rlff_lightning.engines.pool_server import PoolServer
from rlff_lightning.engines.pool_session import PoolPatience, PoolSession
from rlff_lightning.engines.sync import StaleEngineError, sync_weights, verify_sync
from rlff_lightning.engines.vllm_transfer import check_version, update_calls, write_weights
from rlff_lightning.errors import StoppedRun, UserError
from rlff_lightning.models.backbone import Backbone

# The servers start within the first test, on a machine that may be busy.
pytestmark = pytest.mark.timeout(1800)

PROMPTS = [[7 + i, 20, 31, 9] for i in range(4) for _ in range(2)]
COMPLETIONS = [[(5 * i + j) % 256 for j in range(7)] for i in range(8)]


def pool_of(pocket_folder: Path, servers: list[Any], **settings: Any) -> ServerPoolEngine:
    quick = {"health_interval_s": 0.3, "max_outage_s": 60.0, "served_name": "pocket"}
    urls = [server.url for server in servers]
    return ServerPoolEngine(str(pocket_folder), urls, **{**quick, **settings})


def moved(model: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def served_by(server: Any) -> list[str]:
    with urlopen(f"{server.url}/models", timeout=30) as answer:
        return [card["id"] for card in json.load(answer)["data"]]


@pytest.fixture
def model(pocket_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(pocket_folder, dtype=torch.float32).eval()


def test_a_pool_samples_by_seed_and_gives_the_models_log_probabilities(
    pocket_folder: Path, pool_servers: list[Any], model: Any, expected_logps: Callable[..., Any]
) -> None:
    pool = pool_of(pocket_folder, pool_servers)
    sampling = Sampling(temperature=0.7, max_tokens=12)
    drawn = pool.generate(PROMPTS, sampling, list(range(8)))
    tokenizer = Backbone(str(pocket_folder)).tokenizer()
    for prompt, completion in zip(PROMPTS, drawn, strict=True):
        ids = list(completion.token_ids)
        expected = expected_logps(model, prompt, ids, 0.7)
        torch.testing.assert_close(torch.tensor(completion.logps), expected, atol=1e-5, rtol=0)
        spoken = ids[:-1] if completion.is_finished else ids
        assert completion.text == tokenizer.decode(spoken)
    assert [c.token_ids for c in pool.generate(PROMPTS, sampling, list(range(8)))] == [
        c.token_ids for c in drawn
    ]
    assert len({c.token_ids for c in drawn}) > 4
    with pytest.raises(UserError, match=r"prompt 0 must have at most 508 tokens"):
        pool.generate([[1] * 509], Sampling(max_tokens=4), [0])
    pool.close()


def test_all_weights_reach_every_server_and_one_that_missed_them_is_named(
    pocket_folder: Path, pool_servers: list[Any], model: Any, tmp_path: Path
) -> None:
    pool = pool_of(pocket_folder, pool_servers, weights_folder=str(tmp_path))
    for seed in (0, 1):
        moved(model, seed)
        with pytest.raises(StaleEngineError, match=r"/v1's log-probabilities differ"):
            verify_sync(model, pool, PROMPTS, COMPLETIONS)
        sync_weights(model, pool, version=seed, folder=tmp_path)
        assert verify_sync(model, pool, PROMPTS, COMPLETIONS).max_abs < 1e-5
        assert len(list(tmp_path.glob("weights-*"))) == 1
    # Behind the pool's back the second server gets other weights under the current version.
    stale = moved(AutoModelForCausalLM.from_pretrained(pocket_folder), 9)
    write_weights(stale.named_parameters(), tmp_path / "other")
    version = pool._session().version
    assert version is not None
    post(pool_servers[1], *update_calls(tmp_path / "other", version))
    with pytest.raises(StaleEngineError, match=rf"{pool_servers[1].url}'s .*by \d.* above max_mis"):
        verify_sync(model, pool, PROMPTS, COMPLETIONS)
    # The base's weights again, for the tests that follow.
    stored = AutoModelForCausalLM.from_pretrained(pocket_folder)
    sync_weights(stored, pool, version=9, folder=tmp_path)
    verify_sync(stored, pool, PROMPTS, COMPLETIONS)
    pool.close()
    assert not list(tmp_path.glob("weights-*"))


def test_each_adapter_version_is_served_by_all_and_the_one_before_is_dropped(
    pocket_folder: Path, pool_servers: list[Any], model: Any, tmp_path: Path
) -> None:
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    pool = pool_of(pocket_folder, pool_servers)
    for version in (3, 4):
        moved(adapted, version)
        sync_weights(adapted, pool, version=version, folder=tmp_path)
        assert verify_sync(adapted, pool, PROMPTS, COMPLETIONS).max_abs < 1e-5
        for server in pool_servers:
            base, adapter = served_by(server)
            assert (base, adapter[-2:]) == ("pocket", f"-{version}")
    with pytest.raises(ValueError, match="version must be above 4, got 4"):
        pool.load_adapter(tmp_path / "adapter-000004", 4)
    pool.close()
    assert [served_by(server) for server in pool_servers] == [["pocket"]] * 2
    wide = get_peft_model(
        AutoModelForCausalLM.from_pretrained(pocket_folder),
        LoraConfig(r=16, target_modules=["q_proj"]),
    )
    pool = pool_of(pocket_folder, pool_servers)
    # All are asked at once; which one answers first is theirs to decide.
    urls = "|".join(server.url for server in pool_servers)
    with pytest.raises(UserError, match=rf"({urls}) refuses adapter .*16"):
        sync_weights(wide, pool, version=0, folder=tmp_path)
    pool.close()


def test_mistakes_about_servers_are_one_line(
    pocket_folder: Path, pool_servers: list[Any], chat_server: str, model: Any
) -> None:
    with pytest.raises(UserError, match=r"urls must name at least one server and each once"):
        ServerPoolEngine(str(pocket_folder), [])
    with pytest.raises(UserError, match=r"urls must be an http"):
        ServerPoolEngine(str(pocket_folder), ["10.0.0.1:8000"])
    with pytest.raises(UserError, match=r"served_name: .* must serve other, it serves pocket"):
        pool_of(pocket_folder, pool_servers, served_name="other").logps([[1]], [[2]])
    untold = ServerPoolEngine(str(pocket_folder), [chat_server], served_name="pocket")
    with pytest.raises(UserError, match=r"--logprobs-mode processed_logprobs"):
        untold.logps([[1]], [[2]])
    with pytest.raises(UserError, match=r"weights_folder must be a folder that trainer and serv"):
        pool_of(pocket_folder, pool_servers).load_weights(model.named_parameters())
    with pytest.raises(UserError, match=r"tried with 0\.32\.0 alone, got 0\.33\.0"):
        check_version("0.33.0", "http://some")


def post(server: Any, *calls: tuple[str, dict[str, Any]]) -> None:
    for route, body in calls:
        request = Request(
            f"{server.url.removesuffix('/v1')}/{route}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        urlopen(request, timeout=60).close()


def test_servers_that_a_trainer_left_within_an_update_serve_again(
    pocket_folder: Path, pool_servers: list[Any], model: Any, tmp_path: Path
) -> None:
    calls = update_calls(tmp_path / "weights", "never")
    names = [route for route, _ in calls]
    post(pool_servers[0], *calls[: names.index("start_weight_update")])
    post(pool_servers[1], *calls[: names.index("finish_weight_update")])  # of an empty folder
    # The first request of all takes a busy machine longer than a health check.
    pool = pool_of(pocket_folder, pool_servers, timeout_s=60.0, health_interval_s=60.0)
    assert verify_sync(model, pool, PROMPTS, COMPLETIONS).max_abs < 1e-5
    assert len(pool.logps_by_engine(PROMPTS, COMPLETIONS)) == 2
    pool.close()


def test_an_update_that_fails_midway_leaves_servers_that_serve_and_take_the_next_one(
    pocket_folder: Path, pool_servers: list[Any], model: Any, tmp_path: Path
) -> None:
    pool = pool_of(
        pocket_folder, pool_servers, weights_folder=str(tmp_path / "sent"), max_outage_s=0.5
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "part.safetensors").write_bytes(b"no weights")
    calls = update_calls(tmp_path / "broken", "never")
    with pytest.raises(StoppedRun, match=r"in service for 0\.5 s: http.*: server error: 500"):
        pool._session().on_each(lambda server: server.take_weights(calls))
    assert pool.logps_by_engine(PROMPTS, COMPLETIONS).keys() == {s.url for s in pool_servers}
    assert verify_sync(model, pool, PROMPTS, COMPLETIONS).max_abs < 1e-5
    sync_weights(moved(model, 0), pool, version=0, folder=tmp_path)
    assert verify_sync(model, pool, PROMPTS, COMPLETIONS).max_abs < 1e-5
    # The base's weights again, for the tests that follow.
    stored = AutoModelForCausalLM.from_pretrained(pocket_folder)
    sync_weights(stored, pool, version=9, folder=tmp_path)
    pool.close()


class Relay(socketserver.ThreadingTCPServer):
    """An address of its own that leads to a server, once it is bound."""

    daemon_threads = True

    def __init__(self, target: int) -> None:
        self.target = target
        super().__init__(("127.0.0.1", 0), self._Passing, bind_and_activate=False)

    class _Passing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", self.server.target)) as server:  # type: ignore[attr-defined]
                back = threading.Thread(target=self._pass, args=(server, self.request), daemon=True)
                back.start()
                self._pass(self.request, server)
                back.join()

        @staticmethod
        def _pass(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)


def test_a_server_that_comes_late_is_met_at_the_next_sync_by_ranks_that_do_not_sync_themselves(
    pool_servers: list[Any],
) -> None:
    with Relay(pool_servers[1].port) as relay:
        relay.socket.bind(relay.server_address)
        late = f"http://127.0.0.1:{relay.socket.getsockname()[1]}/v1"
        limits = {"api_key": "", "concurrency": 8, "timeout_s": 60.0, "health_timeout_s": 10.0}
        session = PoolSession(
            lambda: [PoolServer(url, **limits) for url in (pool_servers[0].url, late)],
            model="pocket",
            patience=PoolPatience(max_attempts=2, health_interval_s=0.3, max_outage_s=60.0),
            offset=0,
        )
        assert [server.is_up for server in session.servers] == [True, False]
        relay.server_activate()
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        session.refresh()
        assert [server.is_up for server in session.servers] == [True, True]

        async def nothing(_: PoolServer) -> None:
            return

        session.close(nothing)
        relay.shutdown()


def write_shared_run(folder: Path, model: Path, servers: list[Any]) -> Path:
    """Write the config of a LoRA policy whose ranks share the pool; faults come as it runs."""
    pool = {"model_name_or_path": str(model), "urls": [server.url for server in servers]}
    pool |= {"served_name": "pocket", "health_interval_s": 0.3, "max_outage_s": 60.0}
    scripted = "rlff_lightning.agents.scripted.seeker"
    contexts = {
        "seeker": {"class_path": f"{scripted}.ScriptedSeeker"},
        "critic": {"class_path": f"{scripted}.ScriptedCritic"},
        "max_turns": 2,
    }
    victim = {"url": servers[0].url, "process": servers[0].process.pid}
    figures = {"save_dir": ".", "name": "", "version": "", "flush_logs_every_n_steps": 1}
    trainer = {
        "accelerator": "cpu",
        "devices": 2,
        "strategy": {"class_path": "rlff_lightning.strategies.fsdp2.FSDP2"},
        "default_root_dir": ".",
        "max_steps": 4,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": figures},
        "callbacks": [{"class_path": "pool_faults.KilledServer", "init_args": victim}],
    }
    arguments = {
        "policy": {"model_name_or_path": str(model), "adapter": {"rank": 4}},
        "engine": {"class_path": "pool_faults.StaleInTheEnd", "init_args": pool},
        "contexts": {
            "class_path": "rlff_lightning.rollout.contexts.LiveConversations",
            "init_args": contexts,
        },
        "scorers": [
            {
                "class_path": "rlff_lightning.rollout.scorers.RepetitionScorer",
                "init_args": {"size": 2},
            }
        ],
        "rollout": {"prompts": 8, "group_size": 4, "max_tokens": 96},
        "learning_rate": 1e-2,
    }
    policy = {"class_path": "rlff_lightning.modules.policy.PolicyModule", "init_args": arguments}
    file = folder / "shared.yaml"
    file.write_text(yaml.safe_dump({"seed_everything": 0, "trainer": trainer, "model": policy}))
    return file


def test_ranks_share_the_pool_outlive_a_killed_server_and_stop_by_the_name_of_a_stale_one(
    pocket_folder: Path,
    pool_servers: list[Any],
    two_ranks: Callable[..., list[int]],
    tmp_path: Path,
) -> None:
    file = write_shared_run(tmp_path, pocket_folder, pool_servers)
    logs = [tmp_path / f"said-{rank}.txt" for rank in range(2)]
    command = [sys.executable, "-m", "rlff_lightning.cli", "fit", "--config", str(file)]
    paths = {"PYTHONPATH": str(Path(__file__).parent)}
    codes = two_ranks(command, logs, cwd=tmp_path, environment=paths)
    said = [log.read_text() for log in logs]
    assert codes == [1, 1], "\n".join(text[-3000:] for text in said)
    # A server was killed in the second rollout; both ranks asked the other one and went on.
    restarts = [int(line) for line in (tmp_path / "restarts.txt").read_text().split()]
    assert restarts[0] == 0 < restarts[1]
    with (tmp_path / "metrics.csv").open() as table:
        rows = [row for row in csv.DictReader(table) if row["train/policy_loss"]]
    assert len(rows) == 3
    assert max(float(row["rollout/sync_mismatch"]) for row in rows) < 1e-4
    assert max(float(row["train/engine_mismatch"]) for row in rows) < 1e-4
    # The last version came under the name of a new one with old weights: each rank noticed.
    for text in said:
        assert f"rlff: error: {pool_servers[1].url}'s log-probabilities differ from the" in text
    # Each version was written once and loaded once by each server, whatever the number of ranks.
    told = [
        re.findall(r"Loaded new LoRA adapter: name 'rlff-(\w+)-(\d)'", server.log.read_text())
        for server in pool_servers
    ]
    run = told[1][-1][0]
    loaded = ["".join(version for name, version in one if name == run) for one in told]
    assert loaded == ["01", "0123"]
    assert [path.name for path in (tmp_path / "engine_adapter").glob("*/*")] == ["adapter-000003"]


def test_a_pool_without_any_server_stops(pocket_folder: Path, pool_servers: list[Any]) -> None:
    pool_servers[0].kill()
    last = pool_of(pocket_folder, pool_servers, max_outage_s=5.0)
    assert len(last.logps(PROMPTS, COMPLETIONS)) == 8
    pool_servers[1].kill()
    with pytest.raises(
        StoppedRun, match=r"no server of the pool was in service for 5 s: http.*; h"
    ):
        last.logps(PROMPTS, COMPLETIONS)
    last.close()
