from pathlib import Path

import pytest
import torch

from rlff_lightning.data.store import read_parts
from rlff_lightning.dialogue.reward_format import RewardFormat, RewardInput, write_reward_input
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.reward_head import HeadSettings, RewardModel, Texts
from rlff_lightning.rollout.reward_scorer import RewardModelScorer
from rlff_lightning.rollout.scorers import Sampled


@pytest.fixture(scope="module")
def samples(futures_folder: Path) -> list[Sampled]:
    return [
        Sampled(context=r.context, text="", reply=r.reply, token_ids=(), is_finished=True)
        for r in read_parts(futures_folder)[:10]
    ]


def saved(base: Path, folder: Path, settings: HeadSettings) -> RewardModel:
    torch.manual_seed(0)
    backbone = Backbone(str(base))
    model = RewardModel(backbone.build_trunk(), settings).eval()
    model.mark_trained()
    model.save_pretrained(folder, backbone.tokenizer())
    write_reward_input(RewardInput(), folder)
    return model


def scorer_of(folder: Path, **settings: float | str) -> RewardModelScorer:
    scorer = RewardModelScorer(str(folder), **settings)  # type: ignore[arg-type]
    scorer.start(torch.device("cpu"))
    return scorer


@torch.no_grad()
def test_a_head_that_reads_apart_scores_every_reply_as_by_itself(
    pocket_folder: Path, samples: list[Sampled], tmp_path: Path
) -> None:
    model = saved(pocket_folder, tmp_path / "apart", HeadSettings(reads="apart"))
    shown = RewardFormat(Backbone(str(pocket_folder)).tokenizer())
    expected = []
    for sample in samples:
        three = [torch.tensor([ids]) for ids in shown.apart(sample.context, sample.reply)]
        texts = [Texts(ids, torch.ones_like(ids).bool()) for ids in three]
        expected.append(model.values(model.forward_apart(*texts)))
    assert torch.cat(expected).std() > 1e-3
    for batch_size in (1, 4, 128):
        found = scorer_of(tmp_path / "apart", batch_size=batch_size).score(samples)
        torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)


def test_an_ensembles_score_is_as_cautious_as_it_is_told(
    pocket_folder: Path, samples: list[Sampled], tmp_path: Path
) -> None:
    saved(pocket_folder, tmp_path / "five", HeadSettings(members=5))
    mean = scorer_of(tmp_path / "five")
    once, twice = (scorer_of(tmp_path / "five", pessimism=k).score(samples) for k in (1.0, 2.0))
    least = scorer_of(tmp_path / "five", pessimism="min").score(samples)
    trusted = mean.score(samples)
    # mean - 1 s and mean - 2 s lie s apart, and their mean s is what is logged.
    torch.testing.assert_close(trusted - once, once - twice)
    spread = (trusted - once).mean().item()
    assert spread > 1e-3
    assert mean.report()["rollout/reward_disagreement"] == pytest.approx(spread, rel=1e-4)
    assert (least < trusted).all()
    # A second reward model of a run reports beside the first, not over it.
    named = scorer_of(tmp_path / "five", name="second")
    named.score(samples)
    assert named.report().keys() == {f"{key}/second" for key in mean.report()}


def test_caution_needs_an_ensemble(
    pocket_folder: Path, samples: list[Sampled], tmp_path: Path
) -> None:
    saved(pocket_folder, tmp_path / "one", HeadSettings())
    with pytest.raises(UserError, match=r"pessimism must be 0 for .*one head, got 1.0"):
        scorer_of(tmp_path / "one", pessimism=1.0).score(samples)
    with pytest.raises(UserError, match="pessimism must be at least 0, or min, got -1"):
        RewardModelScorer("anywhere", pessimism=-1)
