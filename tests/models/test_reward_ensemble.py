from pathlib import Path

import pytest
import torch

from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.reward_head import HeadSettings, RewardModel

IDS = torch.tensor([[5, 9, 2], [3, 8, 1]])
MASK = torch.ones_like(IDS).bool()
KINDS = [("regression", ()), ("outcomes", (-1.0, 0.0, 1.0)), ("binary", ())]


def ensemble(folder: Path, kind: str, class_values: tuple[float, ...]) -> RewardModel:
    settings = HeadSettings(kind=kind, class_values=class_values, members=3)
    model = RewardModel(Backbone(str(folder)).build_trunk(), settings)
    model.fit_labels(torch.tensor([0.0, 4.0]))
    model.mark_trained()
    return model.eval()


@pytest.mark.parametrize(("kind", "class_values"), KINDS)
@torch.no_grad()
def test_every_member_scores_as_a_head_alone(pocket_folder: Path, kind: str, class_values: tuple):
    model = ensemble(pocket_folder, kind, class_values)
    found = model.member_values(model(IDS, MASK))
    width = len(class_values) or 1
    for member in range(3):
        settings = HeadSettings(kind=kind, class_values=class_values)
        single = RewardModel(model.trunk, settings)
        own = slice(member * width, (member + 1) * width)
        single.head.weight.copy_(model.head.weight[own])
        single.head.bias.copy_(model.head.bias[own])
        single.fit_labels(torch.tensor([0.0, 4.0]))
        torch.testing.assert_close(found[:, member], single.values(single(IDS, MASK)))
    assert found.std(1).min() > 1e-3
    torch.testing.assert_close(model.values(model(IDS, MASK)), found.mean(1))
    least = model.values(model(IDS, MASK), pessimism="min")
    assert torch.equal(least, found.min(1).values)


@torch.no_grad()
def test_an_ensemble_survives_the_disk(pocket_folder: Path, tmp_path: Path):
    model = ensemble(pocket_folder, "regression", ())
    model.save_pretrained(tmp_path / "reward")
    loaded = RewardModel.load(tmp_path / "reward")
    assert loaded.settings.members == 3
    torch.testing.assert_close(loaded(IDS, MASK), model(IDS, MASK))


def test_an_ensemble_has_a_member():
    with pytest.raises(UserError, match=r"members must be at least 1, got 0"):
        HeadSettings(members=0)
