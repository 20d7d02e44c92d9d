import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from callbacks.scores_writer import ScoresWriter
from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.commands.trainer_run import main
from rlff_lightning.data.scoring_rows import RowsToScore
from rlff_lightning.data.store import read_parts
from rlff_lightning.errors import UserError
from rlff_lightning.modules.scoring import ScoringModule
from rlff_lightning.rollout.reward_scorer import RewardModelScorer
from rlff_lightning.rollout.scorers import RepetitionScorer, Sampled
from rlff_lightning.rollout.shaping_scorers import OverlongScorer, TokenRepetitionScorer


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory, futures_folder: Path) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [
        {
            "id": f"row-{number}",
            "context": [{"role": m.role, "content": m.text} for m in record.context.messages],
            "reply": record.reply.text,
        }
        for number, record in enumerate(read_parts(futures_folder)[:20])
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def predict(folder: Path, make: Callable[..., Any], data: RowsToScore, **settings: Any) -> Any:
    scorer = settings.pop("scorer", RepetitionScorer(1))
    trainer = make(folder, callbacks=[ScoresWriter(settings.pop("file", "out.jsonl"))], **settings)
    return trainer.predict(ScoringModule(scorer), data)


def test_the_shipped_config_gives_every_row_the_reward_that_a_policy_would_get(
    rows_file: Path, reward_folder: Path, futures_folder: Path, tmp_path: Path
) -> None:
    config = config_folder() / "service" / "score.yaml"
    words = ["predict", "--config", str(config), "--data.file", str(rows_file)]
    words += ["--data.batch_size", "7", "--model.scorer.folder", str(reward_folder)]
    words += ["--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    words += ["--trainer.enable_progress_bar", "false"]
    assert main(words) == 0
    found = pq.read_table(tmp_path / "scores.parquet")
    assert found["row"].to_pylist() == list(range(20))
    assert found["id"].to_pylist() == [f"row-{number}" for number in range(20)]

    # As the policy's loop scores: whole groups, their context read once.
    scorer = RewardModelScorer(str(reward_folder))
    scorer.start(torch.device("cpu"))
    expected = scorer.score(
        [
            Sampled(context=r.context, text="", reply=r.reply, token_ids=(), is_finished=True)
            for r in read_parts(futures_folder)[:20]
        ]
    )
    assert expected.std() > 1e-3
    torch.testing.assert_close(
        torch.tensor(found["reward"].to_pylist()), expected, rtol=0, atol=1e-5
    )


class FailsOnce(RepetitionScorer):
    """Scores eight rows, then breaks down; remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(1)
        self._asked: list[str] = []
        self._has_failed = False

    def score(self, samples: Any) -> torch.Tensor:
        if len(self._asked) >= 8 and not self._has_failed:
            self._has_failed = True
            raise ConnectionError
        self._asked += [sample.context.id for sample in samples]
        return super().score(samples)


def test_a_run_that_broke_off_goes_on_and_ends_with_the_same_file(
    rows_file: Path, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    predict(tmp_path / "whole", quiet_trainer, RowsToScore(str(rows_file), batch_size=3))
    scorer = FailsOnce()
    for attempt in range(2):
        data = RowsToScore(str(rows_file), batch_size=4)
        if attempt == 0:
            with pytest.raises(ConnectionError):
                predict(tmp_path / "broken", quiet_trainer, data, scorer=scorer)
            assert not (tmp_path / "broken" / "out.jsonl").exists()
        else:
            predict(tmp_path / "broken", quiet_trainer, data, scorer=scorer)
    assert len(scorer._asked) == len(set(scorer._asked)) == 20
    whole, broken = ((tmp_path / n / "out.jsonl").read_text() for n in ("whole", "broken"))
    assert broken == whole
    assert [json.loads(line)["row"] for line in whole.splitlines()] == list(range(20))
    assert not list((tmp_path / "broken").glob(".*"))


def test_scores_of_other_rows_are_not_gone_on_with(
    rows_file: Path, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    own = tmp_path / "rows.jsonl"
    own.write_text(rows_file.read_text())
    data = RowsToScore(str(own), batch_size=4)
    predict(tmp_path, quiet_trainer, data, limit_predict_batches=2)
    assert not (tmp_path / "out.jsonl").exists()
    # The first row now repeats a word: "a a" says one of its two words again.
    changed = [json.loads(line) for line in own.read_text().splitlines()]
    changed[0]["reply"] = "a a"
    own.write_text("".join(json.dumps(row) + "\n" for row in changed))
    predict(tmp_path, quiet_trainer, RowsToScore(str(own), batch_size=4))
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert first == {"row": 0, "id": "row-0", "reward": -0.5}


def test_a_row_that_is_too_long_is_named_by_its_line(
    rows_file: Path, reward_folder: Path, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    long = tmp_path / "long.jsonl"
    row = {"context": [{"role": "user", "content": "word " * 600}], "reply": "x"}
    long.write_text(rows_file.read_text().splitlines()[0] + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"long\.jsonl:2.*at most .*max_tokens=512 tokens, got"):
        predict(
            tmp_path,
            quiet_trainer,
            RowsToScore(str(long)),
            scorer=RewardModelScorer(str(reward_folder)),
        )


def test_other_endings_and_other_modules_are_refused(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"must end in \.parquet or \.jsonl, got 'scores.csv'"):
        ScoresWriter("scores.csv")
    with pytest.raises(UserError, match="ScoresWriter needs a ScoringModule with RowsToScore"):
        quiet_trainer(tmp_path, callbacks=[ScoresWriter()]).predict(
            ScoringModule(RepetitionScorer()), [0]
        )


@pytest.mark.parametrize("scorer", [OverlongScorer(4, max_tokens=8), TokenRepetitionScorer()])
def test_a_scorer_of_tokens_is_refused_as_a_files_replies_are_text(scorer: Any) -> None:
    # It would give every reply 0, as it finds no tokens.
    with pytest.raises(UserError, match=r"ScoringModule must have scorers of a reply's text, got"):
        ScoringModule(scorer)
