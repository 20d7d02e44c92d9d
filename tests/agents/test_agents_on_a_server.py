import json
import threading
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest

from callbacks.futures_writer import FuturesWriter
from rlff_lightning.agents.base import Cast
from rlff_lightning.agents.critic_rule import CriticRule
from rlff_lightning.agents.language_model_critic import LanguageModelCritic
from rlff_lightning.agents.language_model_seeker import LanguageModelSeeker
from rlff_lightning.agents.prompted_supporter import PromptedSupporter
from rlff_lightning.agents.self_play import play
from rlff_lightning.data.store import read_finished
from rlff_lightning.engines.engine_chat import EngineChatModel
from rlff_lightning.engines.server import ServerChatModel
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.simulation.candidates import CandidateSettings
from rlff_lightning.simulation.contexts import SelfPlayContexts
from rlff_lightning.simulation.futures import FutureSettings
from rlff_lightning.types import Conversation, Message

# The server starts within the first test that needs it, on a machine that may be busy.
pytestmark = pytest.mark.timeout(1800)

TWO = CriticRule(name="two", samples=2)
FAULTS = ("drop", "503", "500", "429 after 0.1", "garbage", "page", "empty")


@pytest.fixture
def cards(tmp_path: Path) -> str:
    file = tmp_path / "cards.json"
    texts = [f"Age: {age}\nProblem: sleeps badly since the move" for age in range(20, 30)]
    file.write_text(json.dumps([{"base": text, "source": "own"} for text in texts]))
    return str(file)


def cast_of(url: str, cards: str, **settings: Any) -> Cast:
    def model() -> ServerChatModel:
        return ServerChatModel("pocket", url, **{"max_wait_s": 0.2, **settings})

    # So small a model seldom ends a sentence: a short one is asked for often enough.
    return Cast(
        PromptedSupporter(model(), temperature=1.0, max_tokens=24, max_empty_retries=12),
        LanguageModelSeeker(model(), cards, temperature=1.0, max_tokens=24, max_empty_retries=12),
        LanguageModelCritic(model(), TWO, "choice", max_tokens=64),
    )


def test_no_conversation_is_lost_where_a_third_of_requests_fails_and_the_server_restarts(
    faulty_proxy: Any, cards: str
) -> None:
    draw = Random(0)
    faulty_proxy.faults = (draw.choice(FAULTS) if draw.random() < 0.3 else "" for _ in repeat(0))
    cast = cast_of(faulty_proxy.url, cards, max_attempts=30)
    restart_after(faulty_proxy, 40)
    opened = cast.seeker.open(range(12))
    episodes = play(opened, cast, max_turns=2)
    assert [episode.conversation.seed for episode in episodes] == list(range(12))
    for episode in episodes:
        turns = [verdict for verdict in episode.verdicts if not verdict.failure]
        assert episode.failure or episode.is_success or len(turns) == 2
        assert not episode.failure or episode.failure.startswith("empty message")
    agents = (cast.supporter.counts, cast.seeker.counts, cast.critic.counts)
    assert sum(counts.retries for counts in agents) == faulty_proxy.num_faults
    assert faulty_proxy.num_faults > 0.2 * len(faulty_proxy.seen)
    assert all(counts.prompt_tokens > counts.completion_tokens > 0 for counts in agents)


def restart_after(proxy: Any, num_requests: int) -> None:
    """Let nothing through for a while, from a request on."""

    def restart() -> None:
        while len(proxy.seen) < num_requests:
            time.sleep(0.01)
        proxy.is_down = True
        time.sleep(1.5)
        proxy.is_down = False

    threading.Thread(target=restart, daemon=True).start()


def leave_at_a_part(proxy: Any, store: Path) -> None:
    """Let nothing through once a first batch is stored."""

    def leave() -> None:
        while not any(store.glob("part-*")):
            time.sleep(0.01)
        proxy.is_down = True

    threading.Thread(target=leave, daemon=True).start()


def test_every_context_of_a_collection_is_stored_once_or_quarantined_with_its_reason(
    faulty_proxy: Any, cards: str, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    def collect(num_contexts: int, **settings: Any) -> tuple[pd.DataFrame, dict[int, str]]:
        module = SimulationModule(
            *cast_of(faulty_proxy.url, cards, max_attempts=12, max_outage_s=4),
            contexts=SelfPlayContexts(max_turns=2),
            candidates=CandidateSettings(num_candidates=2, num_samples=2),
            futures=FutureSettings(num_futures=1, look_ahead=2),
            num_contexts=num_contexts,
            batch_size=4,
            seed=0,
            **settings,
        )
        writer = FuturesWriter()
        quiet_trainer(tmp_path, callbacks=[writer]).predict(module)
        rows = pd.read_parquet(tmp_path / "futures")
        assert set(rows["context_number"]) <= writer.store.finished()
        given_up = writer.store.quarantined()
        reasons = {entry.number: entry.reason for entry in given_up}
        assert len(reasons) == len(given_up)
        assert not writer.store.finished() & reasons.keys()
        assert writer.store.finished() | reasons.keys() == set(range(num_contexts))
        finished = [n for part in writer.store.folder.glob("part-*") for n in read_finished(part)]
        assert len(finished) == len(set(finished))
        return rows, reasons

    draw = Random(0)
    faulty_proxy.faults = (draw.choice(FAULTS) if draw.random() < 0.3 else "" for _ in repeat(0))
    leave_at_a_part(faulty_proxy, tmp_path / "futures")
    rows, reasons = collect(12)
    assert faulty_proxy.num_faults > 0.2 * len(faulty_proxy.seen)
    assert 0 < len(reasons) < 12
    assert all(reason.startswith(("connection", "empty message")) for reason in reasons.values())

    faulty_proxy.is_down = False
    restart_after(faulty_proxy, len(faulty_proxy.seen) + 40)
    retried, left = collect(12, retry_quarantined=True)
    assert all(reason.startswith("empty message") for reason in left.values())
    assert set(retried["context_number"]) > set(rows["context_number"])
    kept = retried[retried["context_number"].isin(rows["context_number"])]
    assert kept.reset_index(drop=True).equals(rows.reset_index(drop=True))


def test_a_server_that_stays_away_breaks_off_every_conversation_with_its_reason(
    faulty_proxy: Any, cards: str
) -> None:
    cast = cast_of(faulty_proxy.url, cards, max_outage_s=0.5)
    opened = cast.seeker.open(range(5))
    # A server that never answered would stop the run.
    cast.supporter.reply(opened)
    faulty_proxy.is_down = True
    episodes = play(opened, cast, max_turns=2)
    assert [episode.conversation.seed for episode in episodes] == list(range(5))
    assert all(episode.failure.startswith("connection: ") for episode in episodes)


def test_a_critic_reads_the_same_expectation_from_server_and_process(
    chat_server: str, long_pocket_folder: Path, cards: str
) -> None:
    judged = [
        Conversation(id=text, messages=(Message(role="seeker", text=text),))
        for text in ("I am so sad.", "It is all solved, thank you.")
    ]
    served = LanguageModelCritic(ServerChatModel("pocket", chat_server), "ppdpp", "logps")
    engine = TransformersEngine(str(long_pocket_folder), max_model_len=2048)
    own = LanguageModelCritic(EngineChatModel(engine), "ppdpp", "logps")
    for one, other in zip(served.judge(judged), own.judge(judged), strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-3)
        assert one.outcome == other.outcome
