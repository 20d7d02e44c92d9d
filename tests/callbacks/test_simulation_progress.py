from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks.simulation_progress import SimulationProgress, fitted, line, summary
from rlff_lightning.agents.counts import Counts
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.errors import UserError
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.simulation.tally import Tally, read_tally, write_tally

TALLY = Tally(
    finished=28,
    quarantined=2,
    replies=110,
    turns=600,
    counts={
        "supporter": Counts(
            requests=700,
            prompt_tokens=90_000,
            completion_tokens=12_000,
            retries=3,
            rate_limits=2,
            timeouts=1,
            cut=4,
        ),
        "seeker": Counts(),
        "critic": Counts(
            requests=600, prompt_tokens=1_500_000, completion_tokens=600, answers=400, unparsed=10
        ),
    },
)


EARLIER = Tally(finished=67, quarantined=3)


def test_the_line_gives_rates_of_this_run_and_contexts_of_all_runs() -> None:
    # 30 contexts in 60 s, 70 before: of 160 the last 60 take 120 s. 600 turns and 12600 tokens in
    # 60 s are 10 and 210 per second; 10 of 400 answers are 2.5 %.
    assert line(TALLY, EARLIER, num_contexts=160, wall_s=60) == (
        "contexts 100/160 | 5 quarantined | 10 turns/s | 210 tokens/s | "
        "supporter 90.0k in 12.0k out, critic 1.5M in 600 out | 3 retries | 2.5% unparsed | "
        "2 min 00 s left"
    )


def test_a_line_too_long_for_the_terminal_loses_its_longest_parts_and_keeps_how_far_it_is() -> None:
    whole = line(TALLY, EARLIER, num_contexts=160, wall_s=60)
    assert fitted(whole, columns=len(whole) + 1) == whole
    assert fitted(whole, columns=100) == (
        "contexts 100/160 | 10 turns/s | 210 tokens/s | 3 retries | 2.5% unparsed | 2 min 00 s left"
    )
    assert fitted(whole, columns=40) == "contexts 100/160 | 2 min 00 s left"
    assert fitted(whole, columns=10) == "contexts "


def test_a_slow_rate_is_not_rounded_to_nothing() -> None:
    # 9 turns in 60 s are .15 per second, and 228 tokens 3.8.
    slow = Tally(turns=9, counts={"seeker": Counts(requests=9, completion_tokens=228)})
    assert line(slow, Tally(), num_contexts=9, wall_s=60) == (
        "contexts 0/9 | 0.15 turns/s | 3.8 tokens/s | seeker 0 in 228 out | 0 retries"
    )


def test_before_the_first_context_no_time_is_promised() -> None:
    assert line(Tally(), Tally(), num_contexts=9, wall_s=5) == "contexts 0/9 | 0 turns/s"


def test_the_summary_names_every_role_that_used_a_model() -> None:
    text = summary(TALLY, EARLIER, num_contexts=100, wall_s=7260)
    assert text.splitlines() == [
        "futures: 100 of 100 contexts, 70 of them done before; "
        "110 replies labelled, 5 contexts quarantined, 3 of them given up before",
        "  600 turns in 2 h 01 min, 0.1 turns/s",
        "  supporter: 700 requests, 90000 tokens read, 12000 written; 3 retries (1 after no answer "
        "in time, 2 after a rate limit); 4 cut, 0 shortened, 0 empty",
        "  critic: 600 requests, 1500000 tokens read, 600 written; 0 retries; "
        "0 cut, 0 shortened, 0 empty",
        "  10 of 400 critic answers unparsed (2.5%)",
    ]


def test_tallies_of_two_processes_add_up(tmp_path: Path) -> None:
    write_tally(TALLY, tmp_path / "000.json")
    both = read_tally(tmp_path / "000.json") + Tally(finished=2, counts={"critic": Counts(cut=1)})
    # Roles keep their order, which the lines follow.
    assert list((Tally() + both).counts) == ["supporter", "seeker", "critic"]
    assert (both.finished, both.quarantined, both.turns) == (30, 2, 600)
    assert both.counts["supporter"] == TALLY.counts["supporter"]
    assert (both.counts["critic"].cut, both.counts["critic"].answers) == (1, 400)


def test_a_run_that_never_began_leaves_another_ones_counts_alone(tmp_path: Path) -> None:
    write_tally(TALLY, tmp_path / ".progress" / "000.json")
    trainer = SimpleNamespace(default_root_dir=tmp_path, is_global_zero=True)
    refused = UserError("another run is writing there")
    module = SimulationModule(MixedSupporter(), ScriptedSeeker(), ScriptedCritic())
    SimulationProgress().on_exception(trainer, module, refused)  # type: ignore[arg-type]
    assert read_tally(tmp_path / ".progress" / "000.json") == TALLY


def test_a_run_shows_its_progress_and_leaves_no_trace_of_it(
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("callbacks.simulation_progress._REFRESH_S", 0.0)
    module = SimulationModule(
        MixedSupporter(), ScriptedSeeker(), ScriptedCritic(), num_contexts=6, batch_size=3
    )
    progress = SimulationProgress(every_s=1e-9)
    trainer = quiet_trainer(tmp_path, enable_progress_bar=True, callbacks=[progress])
    trainer.predict(module, return_predictions=False)
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    # Turn by turn, not batch by batch.
    assert len([text for text in lines if text.startswith("contexts 0/6 | ")]) > 3
    assert lines[-1].startswith("contexts 6/6 | ")
    assert shown.out.startswith("futures: 6 of 6 contexts; ")
    assert not (tmp_path / ".progress").exists()
