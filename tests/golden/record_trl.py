"""Record what TRL's own loss code makes of small fixed tensors, for ``test_trl_losses.py``.

The weights between engine and trainer come from TRL too: it scores a rollout of a fixed engine.
Of what TRL can make of that mismatch, we have no counterpart to

- ``token_mask``, which drops single tokens: a cap keeps their gradient bounded;
- ``sequence_truncate`` and, beyond one token, ``sequence_mask``: they bound the product of a
  sequence's ratios, which leaves its range as sequences get longer, and weigh all its tokens by
  it; our range is for the geometric mean and drops only, our weights are per token;
- ``vllm_importance_sampling_clip_min`` of a truncation, which keeps weights from vanishing;
- ``off_policy_mask_threshold`` as such, which spares good sequences and has no upper bound.

Of TRL's losses and their changes, these are not implemented here: ``sapo`` (arXiv:2511.20347),
``luspo`` (arXiv:2602.05261), ``vespo`` (arXiv:2602.10693), ``top_entropy_quantile``
(arXiv:2506.01939), ``use_adaptive_entropy``, ``mask_truncated_completions``, ``sync_ref_model``,
and the auxiliary loss of a mixture's router. ``entropy_coef`` is held against TRL with a mean over
tokens alone: ours averages the bonus like the surrogate.

Held against TRL are the cap (``token_truncate``), no correction, and the range: its lower bound by
``off_policy_mask_threshold`` on bad sequences before the first update, where both cut the
geometric mean of the same ratio, and both its bounds by ``sequence_mask`` on single tokens.

The tests read the JSON and need no TRL. To record again, in an environment with
``rlff-lightning[bench]``: ``python tests/golden/record_trl.py``.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from tiny_trainer import score_rollout
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
    "use_bias_correction_kl": False,
    "entropy_coef": 0.0,
    "vllm_importance_sampling_correction": False,
    "vllm_importance_sampling_mode": "token_truncate",
    "vllm_importance_sampling_clip_min": None,
    "vllm_importance_sampling_clip_max": 2.0,
    "off_policy_mask_threshold": None,
    "case": "ragged",
}
MISMATCH = {"vllm_importance_sampling_correction": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "grpo_separate_clips": {"epsilon_low": 0.1, "epsilon_high": 0.4},
    "grpo_delta": {"delta": 1.3},
    "grpo_kl": {"beta": 0.3},
    "grpo_mismatch": MISMATCH,
    "grpo_mismatch_kl": {**MISMATCH, "beta": 0.3},
    "grpo_mismatch_low_cap": MISMATCH | {"vllm_importance_sampling_clip_max": 1.1},
    "grpo_mismatch_low_range_kl": {
        **MISMATCH,
        "beta": 0.3,
        "off_policy_mask_threshold": 0.15,
        "case": "bad_before_update",
    },
    "grpo_kl_corrected": {"beta": 0.3, "use_bias_correction_kl": True},
    "grpo_delta_kl_corrected": {"delta": 1.3, "beta": 0.3, "use_bias_correction_kl": True},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dr_grpo_kl": {"loss_type": "dr_grpo", "beta": 0.3},
    "bnpo": {"loss_type": "bnpo"},
    "bnpo_entropy": {"loss_type": "bnpo", "entropy_coef": 0.05},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "dapo_mismatch_kl": {
        "loss_type": "dapo",
        "epsilon_high": 0.28,
        **MISMATCH,
        "beta": 0.3,
    },
    "dapo_mismatch_range": {
        **MISMATCH,
        "loss_type": "dapo",
        "epsilon_high": 0.28,
        "vllm_importance_sampling_mode": "sequence_mask",
        "vllm_importance_sampling_clip_min": 0.5,
        "vllm_importance_sampling_clip_max": 1.6,
        "case": "single_tokens",
    },
    "gspo": {"importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04},
    "gspo_kl": {"importance_sampling_level": "sequence", "beta": 0.3},
    "gspo_kl_corrected": {
        "importance_sampling_level": "sequence",
        "beta": 0.3,
        "use_bias_correction_kl": True,
    },
    "gspo_mismatch": {"importance_sampling_level": "sequence", **MISMATCH},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.2},
    "cispo_mismatch_kl": {
        "loss_type": "cispo",
        "epsilon_high": 1.2,
        **MISMATCH,
        "beta": 0.3,
    },
}
ADVANTAGE_REWARDS = [1.0, 0.25, -0.5, 0.5, 2.0, 2.0, 2.0, 2.0, 0.0, 3.0, 0.75, -1.0]
ADVANTAGE_GROUP = 4
METRICS = ["kl", "clip_ratio/low_mean", "clip_ratio/high_mean", "cispo_clip_ratio"]


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
        "sampling_logps": as_float32(near(old_logps, 0.6)),
        "entropy": near(torch.full(shape, 1.5, dtype=torch.float64), 0.2),
        "advantages": torch.tensor([1.2, -0.7, 0.5, -1.1], dtype=torch.float64),
        "loss_mask": torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None],
    }


def as_float32(logps: Tensor) -> Tensor:
    """Round to what TRL reads an engine's log-probabilities in."""
    return logps.to(torch.float32).to(torch.float64)


def cases(ragged: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Vary the drawn tensors for what TRL has under conditions only."""
    return {
        "ragged": ragged,
        # The engine surer of its tokens: by their mean the last two rows stay, by their sum one.
        "bad_before_update": ragged
        | {
            "logps": ragged["old_logps"],
            "sampling_logps": as_float32(ragged["sampling_logps"] + 0.4),
            "advantages": -ragged["advantages"].abs(),
        },
        "single_tokens": {
            name: tensor[:, :1] if tensor.dim() == 2 else tensor for name, tensor in ragged.items()
        },
    }


def record_loss(tensors: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Any]:
    """Run ``GRPOTrainer._compute_loss`` on a trainer whose model returns the fixed tensors."""
    logps = tensors["logps"].clone().requires_grad_()
    entropy = tensors["entropy"].clone().requires_grad_()
    metrics = {"train": defaultdict(list)}
    trainer = SimpleNamespace(
        **settings,
        args=SimpleNamespace(
            delta=settings["delta"],
            use_bias_correction_kl=settings["use_bias_correction_kl"],
            steps_per_generation=1,
        ),
        use_vllm=True,
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(),
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_TOKENS,
        top_entropy_quantile=1.0,
        aux_loss_enabled=False,
        use_adaptive_entropy=False,
        _entropy_bonus_enabled=settings["entropy_coef"] != 0,
        _metrics=metrics,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
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
        "sampling_per_token_logps": tensors["sampling_logps"],
    }
    if settings["vllm_importance_sampling_correction"]:
        inputs["importance_sampling_ratio"] = mismatch_weights(tensors, settings)
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


def mismatch_weights(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Tensor:
    """Have TRL weigh the mismatch between the trainer's and the engine's log-probabilities."""
    of_mismatch = {name: value for name, value in settings.items() if name.startswith("vllm_")}
    rows = len(tensors["loss_mask"])
    scored = score_rollout([float(row) for row in range(rows)], rows, tensors, **of_mismatch)
    weights = scored["importance_sampling_ratio"]
    counted = weights.expand(tensors["loss_mask"].shape)[tensors["loss_mask"]]
    cap = settings["vllm_importance_sampling_clip_max"]
    is_bounded = counted == (cap if "truncate" in settings["vllm_importance_sampling_mode"] else 0)
    assert 0 < is_bounded.sum() < len(is_bounded), "the variant's bound should bind, not always"
    return weights


def record_advantages() -> dict[str, Any]:
    scales = ("group", "batch", "none")
    return {
        "rewards": ADVANTAGE_REWARDS,
        "group_size": ADVANTAGE_GROUP,
        "advantages": {
            scale: score_rollout(ADVANTAGE_REWARDS, ADVANTAGE_GROUP, None, scale_rewards=scale)[
                "advantages"
            ].tolist()
            for scale in scales
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
    tensors = cases(draw())
    settings = {name: DEFAULTS | changed for name, changed in VARIANTS.items()}
    golden = {
        "recorded_from": f"trl {trl.__version__}, GRPOTrainer and trl.rewards",
        "max_tokens": MAX_TOKENS,
        "window_tokens": WINDOW_TOKENS,
        "cases": {
            case: {name: tensor.tolist() for name, tensor in of_case.items()}
            for case, of_case in tensors.items()
        },
        "variants": {
            name: record_loss(tensors[chosen["case"]], chosen) for name, chosen in settings.items()
        },
        "advantages": record_advantages(),
        "shaping": record_shaping(),
    }
    path = Path(__file__).with_name("trl_losses.json")
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
