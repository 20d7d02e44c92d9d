from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from rlff_lightning.errors import UserError
from rlff_lightning.models.adapters import policy_without_adapter
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.reward_head import HeadSettings, RewardModel
from rlff_lightning.models.shared_base import SharedRewardModel

TEXTS = [[5, 9, 2, 0, 0], [3], [8, 1, 30], [4, 4, 4, 4, 4, 7, 1]]  # 0 is padding and end
KINDS = [(None, False), (None, True), ("nf4", False), ("nf4", True)]


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """Give everything that trains values as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = 0.2 * torch.randn(weight.shape, generator=generator)
    return model


def reward_folder(base: Path, tokenizer: PreTrainedTokenizerFast, **options) -> Path:
    lora = LoraSettings(rank=3, target_modules=["q_proj", "down_proj"])
    backbone = Backbone(str(base), adapter=lora, **options)
    model = RewardModel(backbone.build_trunk(), HeadSettings())
    shaken(model, 1)
    model.fit_labels(torch.tensor([0.0, 4.0]))
    model.mark_trained()
    model.save_pretrained(base.parent / "reward", tokenizer)
    return base.parent / "reward"


def policy_of(base: Path, **options) -> nn.Module:
    return shaken(Backbone(str(base), adapter=LoraSettings(rank=4), **options).build(), 2)


def batch(left: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = left + max(map(len, TEXTS))
    ids, mask = torch.zeros(2, len(TEXTS), width, dtype=torch.long)
    for row, text in enumerate(TEXTS):
        ids[row, left : left + len(text)] = torch.tensor(text)
        mask[row, left : left + len(text)] = 1
    return ids, mask.bool()


@pytest.mark.parametrize(("quantize", "gradient_checkpointing"), KINDS)
def test_scores_on_the_policys_base_are_those_of_a_reward_model_loaded_alone(
    pocket_folder: Path, tokenizer, quantize, gradient_checkpointing: bool
):
    folder = reward_folder(pocket_folder, tokenizer, quantize=quantize)
    options = {"quantize": quantize, "gradient_checkpointing": gradient_checkpointing}
    shared = SharedRewardModel(folder, policy_of(pocket_folder, **options))
    alone = RewardModel.load(folder)
    expected = alone.values(alone(*batch()))
    assert expected.std() > 0.01
    with torch.no_grad(), shared.active() as model:
        for left in (0, 3):
            found = model.values(model(*batch(left)))
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        prompts = torch.tensor([[5, 9], [8, 1]])
        replies = torch.tensor([[2, 0, 0], [7, 0, 0], [30, 0, 0], [3, 4, 6]])
        mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 1]]).bool()
        groups = (prompts, torch.ones_like(prompts).bool(), replies, mask)
        for sharing in ("shared", "padded"):
            found = model.forward_groups(*groups, sharing=sharing)
            expected = alone.forward_groups(*groups, sharing="padded")
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("quantize", "gradient_checkpointing"), KINDS)
def test_three_roles_in_turn_leave_the_policys_training_as_it_was(
    pocket_folder: Path, tokenizer, quantize, gradient_checkpointing: bool
):
    folder = reward_folder(pocket_folder, tokenizer, quantize=quantize)
    options = {"quantize": quantize, "gradient_checkpointing": gradient_checkpointing}
    ids = batch()[0]

    def steps(shares: bool) -> tuple[torch.Tensor, torch.Tensor]:
        policy = policy_of(pocket_folder, **options)
        policy.get_base_model().model.layers[1].eval()  # a mode of its own must survive
        modes = [module.training for module in policy.modules()]
        names = list(policy.state_dict())
        shared = SharedRewardModel(folder, policy) if shares else None
        optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.1)
        for _ in range(3):
            if shared:
                with torch.no_grad(), shared.active() as model:
                    model(*batch())
                with torch.no_grad(), policy_without_adapter(policy):
                    policy(ids)
            policy(ids).logits.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert [module.training for module in policy.modules()] == modes
        assert list(policy.state_dict()) == names
        trained = torch.cat([p.flatten() for p in policy.parameters() if p.requires_grad])
        return trained, policy(ids).logits

    for with_reward, without in zip(steps(True), steps(False), strict=True):
        assert torch.equal(with_reward, without)


def test_the_three_roles_differ_and_come_back_after_an_error(pocket_folder: Path, tokenizer):
    folder = reward_folder(pocket_folder, tokenizer)
    policy, ids = policy_of(pocket_folder), batch()[0]
    shared = SharedRewardModel(folder, policy)
    as_policy = policy(ids).logits
    with policy_without_adapter(policy):
        as_reference = policy(ids).logits
    with shared.active():
        as_reward = policy(ids).logits
    assert not torch.allclose(as_policy, as_reference, atol=1e-2)
    assert not torch.allclose(as_reward, as_reference, atol=1e-2)
    with pytest.raises(KeyError), shared.active():
        raise KeyError
    assert torch.equal(policy(ids).logits, as_policy)
    assert policy.training


def test_the_reward_model_owns_nothing_but_adapter_and_head(pocket_folder: Path, tokenizer):
    shared = SharedRewardModel(reward_folder(pocket_folder, tokenizer), policy_of(pocket_folder))
    # Two layers: q_proj 64 -> 64 has 3 * (64 + 64) weights, down_proj 3 * (inner + 64);
    # the head has 64 weights and a bias. Four bytes each.
    inner = shared.model.trunk.config.intermediate_size
    assert shared.num_bytes == 4 * (2 * 3 * (64 + 64 + inner + 64) + 65)
    assert not any(weight.requires_grad for weight in shared.model.head.parameters())


def test_what_shares_no_base_is_one_line(pocket_folder: Path, tmp_path: Path, tokenizer):
    folder = reward_folder(pocket_folder, tokenizer)
    with pytest.raises(UserError, match=r"LoRA policy.*share_base: false"):
        SharedRewardModel(folder, Backbone(str(pocket_folder)).build())
    with pytest.raises(UserError, match=r"trained with quantize: None.*in 4 bits"):
        SharedRewardModel(folder, policy_of(pocket_folder, quantize="nf4"))
    other = tmp_path / "other"
    other.symlink_to(pocket_folder)
    SharedRewardModel(folder, policy_of(other))  # another name of the same folder
    other.unlink()
    Backbone(str(pocket_folder)).build().save_pretrained(other)
    with pytest.raises(UserError, match=r"trained on .*pocket.*base is .*other") as caught:
        SharedRewardModel(folder, policy_of(other))
    assert "\n" not in str(caught.value)


def test_a_reward_model_without_adapter_has_a_base_of_its_own(pocket_folder: Path, tmp_path: Path):
    model = RewardModel(Backbone(str(pocket_folder)).build_trunk(), HeadSettings())
    model.mark_trained()
    model.save_pretrained(tmp_path / "whole")
    with pytest.raises(UserError, match=r"with an adapter to share a base.*adapter_config\.json"):
        SharedRewardModel(tmp_path / "whole", policy_of(pocket_folder))


def test_an_untrained_head_is_refused_on_a_shared_base(pocket_folder: Path, tmp_path: Path):
    backbone = Backbone(str(pocket_folder), adapter=LoraSettings(rank=2))
    RewardModel(backbone.build_trunk(), HeadSettings()).save_pretrained(tmp_path / "fresh")
    with pytest.raises(UserError, match="never trained"):
        SharedRewardModel(tmp_path / "fresh", policy_of(pocket_folder))
