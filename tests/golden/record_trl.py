"""Record what TRL's own loss code makes of small fixed tensors, for ``test_trl_losses.py``.

The tests read the JSON and need no TRL. To record again, in an environment of its own:
``pip install trl==1.16.0 datasets && python tests/golden/record_trl.py``.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from torch import Tensor
from trl import GRPOTrainer
from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

LENGTHS = [6, 1, 4, 3]
MAX_TOKENS = 10
WINDOW_TOKENS = 37  # of the whole accumulation window, of which this micro-batch is a part

DEFAULTS: dict[str, Any] = {
    "loss_type": "grpo",
    "importance_sampling_level": "token",
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "delta": None,
    "beta": 0.0,
    "use_vllm": False,
    "entropy_coef": 0.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "grpo_separate_clips": {"epsilon_low": 0.1, "epsilon_high": 0.4},
    "grpo_delta": {"delta": 1.3},
    "grpo_kl": {"beta": 0.3},
    "grpo_mismatch": {"use_vllm": True},
    "grpo_mismatch_kl": {"use_vllm": True, "beta": 0.3},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dr_grpo_kl": {"loss_type": "dr_grpo", "beta": 0.3},
    "bnpo": {"loss_type": "bnpo"},
    "bnpo_entropy": {"loss_type": "bnpo", "entropy_coef": 0.05},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "dapo_mismatch_kl": {
        "loss_type": "dapo",
        "epsilon_high": 0.28,
        "use_vllm": True,
        "beta": 0.3,
    },
    "gspo": {"importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04},
    "gspo_kl": {"importance_sampling_level": "sequence", "beta": 0.3},
    "gspo_mismatch": {"importance_sampling_level": "sequence", "use_vllm": True},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.2},
    "cispo_mismatch_kl": {
        "loss_type": "cispo",
        "epsilon_high": 1.2,
        "use_vllm": True,
        "beta": 0.3,
    },
}
METRICS = ["kl", "clip_ratio/low_mean", "clip_ratio/high_mean"]


class Accelerator:
    """A single process's."""

    num_processes = 1

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        return tensor


def draw() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    shape = (len(LENGTHS), max(LENGTHS))

    def near(logps: Tensor, spread: float) -> Tensor:
        return logps + spread * torch.randn(shape, generator=generator, dtype=torch.float64)

    old_logps = near(torch.full(shape, -2.0, dtype=torch.float64), 0.5)
    return {
        "logps": near(old_logps, 0.4),
        "old_logps": old_logps,
        "ref_logps": near(old_logps, 0.3),
        "sampling_logps": near(old_logps, 0.6),
        "entropy": near(torch.full(shape, 1.5, dtype=torch.float64), 0.2),
        "advantages": torch.tensor([1.2, -0.7, 0.5, -1.1], dtype=torch.float64),
        "loss_mask": torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None],
    }


def record_loss(tensors: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Any]:
    """Run ``GRPOTrainer._compute_loss`` on a trainer whose model returns the fixed tensors."""
    logps = tensors["logps"].clone().requires_grad_()
    entropy = tensors["entropy"].clone().requires_grad_()
    metrics = {"train": defaultdict(list)}
    trainer = SimpleNamespace(
        **settings,
        args=SimpleNamespace(
            delta=settings["delta"], use_bias_correction_kl=False, steps_per_generation=1
        ),
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(),
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_TOKENS,
        vllm_importance_sampling_correction=True,
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        aux_loss_enabled=False,
        use_adaptive_entropy=False,
        _entropy_bonus_enabled=settings["entropy_coef"] != 0,
        _metrics=metrics,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, entropy, None),
    )
    trainer.accelerator.sync_gradients = False
    mask = tensors["loss_mask"].to(torch.float64)
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.int64),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.int64),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.int64),
        "completion_mask": mask,
        "advantages": tensors["advantages"],
        "old_per_token_logps": tensors["old_logps"],
        "ref_per_token_logps": tensors["ref_logps"],
        "num_items_in_batch": torch.tensor(float(WINDOW_TOKENS)),
        # TRL prepares it outside of its loss: token level, truncated at 2.
        "importance_sampling_ratio": torch.exp(
            (tensors["old_logps"] - tensors["sampling_logps"]) * mask
        ).clamp(max=2.0),
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return {
        "settings": settings,
        "loss": loss.item(),
        "logps_grad": logps.grad.tolist(),
        "entropy_grad": None if entropy.grad is None else entropy.grad.tolist(),
        "metrics": {
            name: metrics["train"][name][0] for name in METRICS if name in metrics["train"]
        },
    }


def record_shaping() -> dict[str, Any]:
    completion_ids = [[1, 2, 3, 1, 2, 3, 1], [4, 4, 4, 4], [1, 2], [5, 6, 7, 8, 9, 10]]
    lengths = [3, 6, 7, 9, 10, 14]
    overlong = get_soft_overlong_punishment(max_completion_len=MAX_TOKENS, soft_punish_cache=4)
    repetition = get_repetition_penalty_reward(ngram_size=3, max_penalty=-1.0)
    return {
        "lengths": lengths,
        "buffer_tokens": 4,
        "overlong": overlong(completion_ids=[[0] * length for length in lengths]),
        "completion_ids": completion_ids,
        "ngram_size": 3,
        "repetition": repetition(completion_ids=completion_ids),
    }


def main() -> None:
    tensors = draw()
    golden = {
        "recorded_from": f"trl {trl.__version__}, GRPOTrainer._compute_loss and trl.rewards",
        "max_tokens": MAX_TOKENS,
        "window_tokens": WINDOW_TOKENS,
        "tensors": {name: tensor.tolist() for name, tensor in tensors.items()},
        "variants": {
            name: record_loss(tensors, DEFAULTS | settings) for name, settings in VARIANTS.items()
        },
        "shaping": record_shaping(),
    }
    path = Path(__file__).with_name("trl_losses.json")
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
