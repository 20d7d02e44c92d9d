"""One frozen base in three roles: policy by its adapter, reference without, reward by another."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from rlff_lightning.errors import UserError
from rlff_lightning.models.adapters import policy_without_adapter
from rlff_lightning.models.frozen_adapter import FrozenAdapter
from rlff_lightning.models.output_head import transformers_model
from rlff_lightning.models.reward_files import read_reward_files
from rlff_lightning.models.reward_head import RewardModel
from rlff_lightning.models.sharding import is_four_bit, is_sharded


class SharedRewardModel:
    """A trained reward model that computes with a policy's base: only adapter and head are its own.

    It is no module and registers none, so that nobody trains, saves, moves or sends it. Outside of
    ``active`` the policy computes as if it were not there.

    Args:
        folder: What the reward stage wrote; its adapter must have been trained on the same base.
        policy: A LoRA policy on a frozen, possibly 4-bit base.

    Raises:
        UserError: If the two do not share a base, or the head was never trained.
    """

    def __init__(self, folder: Path, policy: nn.Module) -> None:
        if not isinstance(policy, PeftModel):
            raise UserError(
                "A base can be shared only with a LoRA policy, whose base stays frozen, got "
                f"{type(policy).__name__}; set policy.adapter, or share_base: false"
            )
        if is_sharded(policy):
            # Every pass gathers weights from all processes, which do not score equally often.
            raise UserError(
                "RewardModelScorer.share_base must be false where the policy is sharded, got true"
            )
        base = transformers_model(policy)
        trunk: Any = base.base_model
        files = read_reward_files(folder, dtype="float32")
        self._policy = policy
        self._adapter = FrozenAdapter(folder, trunk)
        _check_same_base(folder, self._adapter.base, files.backbone.quantize, policy)
        self.model = RewardModel(trunk, files.settings)
        self.model.head.load_state_dict(files.head)
        self.model.head.requires_grad_(False).to(base.device)
        self.model.set_extra_state(files.state)

    @property
    def num_bytes(self) -> int:
        """Memory that the reward model takes beside the policy."""
        head = sum(weight.nbytes for weight in self.model.head.parameters())
        return self._adapter.num_bytes + head

    @contextmanager
    def active(self) -> Iterator[RewardModel]:
        """Give the reward model: the policy's adapters off, its own on, evaluation mode."""
        modes = [(module, module.training) for module in self._policy.modules()]
        self.model.eval()
        try:
            with policy_without_adapter(self._policy), self._adapter.added():
                yield self.model
        finally:
            for module, was_training in modes:
                module.training = was_training


def _check_same_base(folder: Path, own: str, quantize: str | None, policy: PeftModel) -> None:
    theirs = policy.peft_config[policy.active_adapter].base_model_name_or_path or ""
    if not own or _place(own) != _place(theirs):
        raise UserError(
            f"{folder}: its adapter was trained on {own or 'an unnamed base'}, the policy's base "
            f"is {theirs or 'unnamed'}: a shared base must be the same; set share_base: false"
        )
    is_quantised = is_four_bit(policy)
    if is_quantised != (quantize is not None):
        raise UserError(
            f"{folder}: trained with quantize: {quantize}, the policy's base is "
            f"{'in' if is_quantised else 'not in'} 4 bits: scores would change; train both alike"
        )
    trained = [
        name
        for name, weight in policy.named_parameters()
        if weight.requires_grad and ".lora_" not in name
    ]
    if trained:
        raise UserError(
            f"A base can be shared only while it is frozen, but {trained[0]} is trained"
        )


def _place(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name
