import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.futures_writer import FuturesWriter
from callbacks.simulation_progress import SimulationProgress
from rlff_lightning.agents.base import Critic
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.data.futures_store import FuturesStore
from rlff_lightning.data.store import read_identity, read_parts
from rlff_lightning.errors import UserError
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.simulation.candidates import CandidateSettings
from rlff_lightning.simulation.contexts import MixedContexts, SelfPlayContexts
from rlff_lightning.simulation.futures import FutureSettings
from rlff_lightning.types import Conversation, LabelledReply, Verdict


def simulate(
    folder: Path, make: Callable[..., Any], num_contexts: int, batch_size: int, **settings: Any
) -> list[LabelledReply]:
    given = {"supporter": MixedSupporter(), "seeker": ScriptedSeeker(), "critic": ScriptedCritic()}
    module = SimulationModule(
        **{**given, **settings}, num_contexts=num_contexts, batch_size=batch_size
    )
    trainer = make(folder, callbacks=[FuturesWriter()])
    trainer.predict(module)  # Predictions are the folder's, not the memory's.
    return read_parts(folder / "futures")


class BlindCritic(ScriptedCritic):
    """Gives up on every person whose seed has a certain remainder."""

    def __init__(self, remainder: int | None) -> None:
        self._remainder = remainder

    def judge(self, conversations: list[Conversation]) -> list[Verdict]:  # type: ignore[override]
        return [
            Verdict(value=0.0, outcome="unparsed", is_success=False, failure="server said 503")
            if self._remainder is not None
            and int(conversation.source.removeprefix("scripted-")) % 4 == self._remainder
            else verdict
            for conversation, verdict in zip(
                conversations, super().judge(conversations), strict=True
            )
        ]


def test_what_is_written_is_what_was_simulated_whatever_the_batch_size(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    one = simulate(tmp_path / "one", quiet_trainer, num_contexts=10, batch_size=10)
    other = simulate(tmp_path / "other", quiet_trainer, num_contexts=10, batch_size=3)
    assert len(list((tmp_path / "other" / "futures").glob("part-*"))) == 4
    assert one == other
    assert len({record.context.id for record in one}) == 10
    # A context keeps its labels when more contexts follow it.
    more = simulate(tmp_path / "more", quiet_trainer, num_contexts=12, batch_size=5)
    assert more[: len(one)] == one
    # A user's own tools read the folder as it is.
    table = pd.read_parquet(tmp_path / "one" / "futures")
    assert list(table["value"]) == [record.value for record in one]
    assert sorted(set(table["context_number"])) == list(range(10))


def test_a_second_run_does_what_is_left_and_no_more(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    simulate(tmp_path, quiet_trainer, num_contexts=6, batch_size=4)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "futures").glob("part-*")}
    grown = simulate(tmp_path, quiet_trainer, num_contexts=9, batch_size=2)
    assert grown == simulate(tmp_path / "whole", quiet_trainer, num_contexts=9, batch_size=9)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    parts = sorted(path.name for path in (tmp_path / "futures").glob("part-*"))
    assert len(parts) == 4  # two of the first run, then contexts 6, 7 and 8
    assert simulate(tmp_path, quiet_trainer, num_contexts=9, batch_size=2) == grown
    assert len(list((tmp_path / "futures").glob("part-*"))) == 4


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"futures": FutureSettings(look_ahead=3)}, "futures.look_ahead was 2, is 3"),
        ({"supporter": MixedSupporter(skill=0.7)}, "supporter.skill was 0.6, is 0.7"),
        ({"seed": 1}, "seed was 0, is 1"),
        (
            {"candidates": CandidateSettings(num_candidates=2)},
            "candidates.num_candidates was 4, is 2",
        ),
    ],
)
def test_a_run_that_would_write_other_rows_is_refused_with_the_difference(
    quiet_trainer: Callable[..., Any], tmp_path: Path, settings: dict[str, Any], difference: str
) -> None:
    simulate(tmp_path, quiet_trainer, num_contexts=2, batch_size=2, seed=0)
    before = read_parts(tmp_path / "futures")
    with pytest.raises(UserError, match=re.escape(f"begun by another run: {difference};")):
        simulate(tmp_path, quiet_trainer, 3, 2, **{"seed": 0, **settings})
    assert read_parts(tmp_path / "futures") == before


def test_a_proposer_is_a_part_of_what_a_run_is(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    def propose(skill: float) -> CandidateSettings:
        return CandidateSettings(proposer=MixedSupporter(skill), num_proposed=2)

    first = simulate(tmp_path, quiet_trainer, 4, 4, candidates=propose(0.0))
    assert {record.origin for record in first} == {"policy", "proposer"}
    with pytest.raises(UserError, match=r"candidates\.proposer\.skill was 0\.0, is 0\.5"):
        simulate(tmp_path, quiet_trainer, 6, 4, candidates=propose(0.5))


def test_who_plays_the_contexts_is_a_part_of_what_a_run_is(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    def contexts(label: str) -> MixedContexts:
        player = MixedSupporter()
        player.fingerprint = label
        return MixedContexts([SelfPlayContexts(player), SelfPlayContexts()])

    simulate(tmp_path, quiet_trainer, 4, 4, contexts=contexts("reply-1"))
    with pytest.raises(UserError, match=r'context supporter 1\.fingerprint was "reply-1"'):
        simulate(tmp_path, quiet_trainer, 6, 4, contexts=contexts("reply-2"))


def test_a_part_and_the_page_say_whose_they_are(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    simulate(tmp_path, quiet_trainer, 4, 2)
    manifest = json.loads((tmp_path / "futures" / "_manifest.json").read_text())
    assert manifest["identity"]["judge"] == ScriptedCritic().name
    for part in (tmp_path / "futures").glob("part-*"):
        assert read_identity(part) == manifest["identity"]
    assert "- judge: " in (tmp_path / "futures.md").read_text()


def test_contexts_that_were_given_up_wait_in_quarantine_until_they_are_asked_for(
    quiet_trainer: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(critic: Critic, **settings: Any) -> tuple[list[LabelledReply], pd.DataFrame]:
        rows = simulate(tmp_path, quiet_trainer, 12, 5, critic=critic, **settings)
        quarantine = tmp_path / "futures" / "_quarantine.jsonl"
        return rows, pd.read_json(quarantine, lines=True) if quarantine.is_file() else None

    whole = simulate(tmp_path / "whole", quiet_trainer, 12, 5, critic=BlindCritic(None))
    rows, quarantine = run(BlindCritic(1))
    struck = set(quarantine["context_id"])
    assert 0 < len(struck) < 12
    assert rows == [row for row in whole if row.context.source not in sources(whole, struck)]
    assert set(quarantine["reason"]) == {"server said 503"}
    # The next run leaves them alone, though nothing would fail now, and does not forget them.
    module = SimulationModule(
        MixedSupporter(), ScriptedSeeker(), BlindCritic(None), num_contexts=12, batch_size=5
    )
    progress = [FuturesWriter(), SimulationProgress()]
    capsys.readouterr()
    quiet_trainer(tmp_path, enable_progress_bar=True, callbacks=progress).predict(module)
    assert capsys.readouterr().out.startswith(
        "futures: 12 of 12 contexts, 12 of them done before; 0 replies labelled, "
        f"{len(struck)} contexts quarantined, {len(struck)} of them given up before\n"
    )
    assert read_parts(tmp_path / "futures") == rows
    found, left = run(BlindCritic(None), retry_quarantined=True)
    assert found == whole
    assert left.empty


class Terminating(ScriptedSeeker):
    """Has the process told to end at one of its answers, if at all."""

    def __init__(self, last: int | None) -> None:
        super().__init__()
        self._last, self._num_answers = last, 0

    def answer(self, conversations: list[Conversation]) -> list[Conversation]:  # type: ignore[override]
        self._num_answers += 1
        if self._num_answers == self._last:
            os.kill(os.getpid(), signal.SIGTERM)
        assert self._last is None or self._num_answers <= self._last
        return super().answer(conversations)


def test_a_run_that_is_told_to_end_does_so_at_its_next_turn_and_can_be_gone_on_with(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"batches_at_once": 1, "seed": 0}
    with pytest.raises(SIGTERMException):
        simulate(tmp_path, quiet_trainer, 12, 1, seeker=Terminating(40), **settings)
    held = FuturesStore(tmp_path / "futures").finished()
    assert 0 < len(held) < 12
    whole = simulate(tmp_path / "whole", quiet_trainer, 12, 5, seeker=Terminating(None), **settings)
    assert simulate(tmp_path, quiet_trainer, 12, 5, seeker=Terminating(None), **settings) == whole


def sources(rows: list[LabelledReply], context_ids: set[str]) -> set[str]:
    # A context that broke off in its making has another depth in its id.
    struck = {context_id.partition("/")[0] for context_id in context_ids}
    return {row.context.source for row in rows if row.context.source in struck}


def test_a_page_shows_contexts_from_all_over_the_store(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    rows = simulate(tmp_path, quiet_trainer, num_contexts=20, batch_size=8)
    page = (tmp_path / "futures.md").read_text()
    ids = list(dict.fromkeys(row.context.id for row in rows))
    shown = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert shown == ids[::4][:5]
    first = rows[0]
    assert f"### Candidate 1 (policy): {first.value:+.2f} ± {first.standard_error:.2f}" in page
    assert first.futures[0].messages[0].text in page
