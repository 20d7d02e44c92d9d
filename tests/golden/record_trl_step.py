"""Record what whole training steps of TRL's ``GRPOTrainer`` make of a tiny model's weights.

Generation alone is replaced, by fixed tokens and their log-probabilities; rewards, advantages,
weights for the mismatch between engine and trainer, loss, backward, clipping and AdamW are TRL's.
``test_trl_step.py`` reads the JSON and needs no TRL. To record again, in an environment with
``rlff-lightning[bench]``: ``python tests/golden/record_trl_step.py``.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import trl
from tiny_trainer import CONFIG, FixedEngine, build_model, build_trainer

GROUP = 3
MAX_TOKENS = 4
LEARNING_RATE = 1e-2
MAX_NORM = 0.5
PROMPTS = [[5, 9, 2, 7, 3], [4, 8, 6]]
COMPLETIONS = [
    # One list per rollout, siblings adjacent; some end by the end token, some at the limit.
    [[4, 6, 11, 1], [1], [12, 3, 7, 9], [13, 1], [15, 16, 2, 1], [5, 5, 5, 5]],
    [[3, 1], [9, 9, 2, 14], [6, 1], [7, 8, 1], [10, 11, 12, 13], [1]],
]
# Nats around those of a uniform choice, log 1/17 = -2.83; exact in float32, which TRL reads.
SAMPLING_LOGPS = [
    [
        [
            -2.75 + 0.25 * ((5 * row + 3 * column + 2 * rollout) % 9 - 4)
            for column in range(len(ids))
        ]
        for row, ids in enumerate(completions)
    ]
    for rollout, completions in enumerate(COMPLETIONS)
]
REWARDS = [[1.0, 0.25, -0.5, 0.5, 2.0, 0.75], [0.0, 1.5, 0.5, -1.0, 0.25, 0.5]]
DEFAULTS = {"use_bias_correction_kl": False, "vllm_importance_sampling_correction": False}
CAPPED = {
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "token_truncate",
    "vllm_importance_sampling_clip_max": 2.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "grpo_batch_scaled": {"loss_type": "grpo", "scale_rewards": "batch"},
    "dapo_kl_accumulated": {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1, "parts": 2},
    "dapo_kl_accumulated_capped": {
        "loss_type": "dapo",
        "epsilon_high": 0.28,
        "beta": 0.1,
        "use_bias_correction_kl": True,
        "parts": 2,
        **CAPPED,
    },
    "grpo_two_passes": {
        "loss_type": "grpo",
        "beta": 0.05,
        "use_bias_correction_kl": True,
        "num_iterations": 2,
    },
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "gspo_two_passes": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 0.03,
        "epsilon_high": 0.04,
        "num_iterations": 2,
    },
    "cispo_two_passes_capped": {
        "loss_type": "cispo",
        "epsilon_high": 1.1,
        "num_iterations": 2,
        **CAPPED,
    },
}
CLIP_SHARES = ["clip_ratio/low_mean", "clip_ratio/high_mean"]
BOTH_ENDS = ["min", "max"]


def record(settings: dict[str, Any]) -> dict[str, Any]:
    """Run two rollouts and all their updates."""
    parts = settings.pop("parts", 1)
    losses: list[float] = []
    engine = FixedEngine(COMPLETIONS, SAMPLING_LOGPS)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            Path(folder),
            engine,
            PROMPTS,
            REWARDS,
            per_device_train_batch_size=len(PROMPTS) * GROUP // parts,
            gradient_accumulation_steps=parts,
            num_generations=GROUP,
            max_completion_length=MAX_TOKENS,
            learning_rate=LEARNING_RATE,
            adam_beta2=0.95,
            weight_decay=0.0,
            lr_scheduler_type="constant",
            max_grad_norm=MAX_NORM,
            max_steps=len(COMPLETIONS) * settings.get("num_iterations", 1),
            **DEFAULTS | settings,
        )
        inner = trainer.training_step

        def training_step(*args: Any, **kwargs: Any) -> Any:
            loss = inner(*args, **kwargs)
            losses.append(loss.item())
            return loss

        trainer.training_step = training_step
        trainer.train()
    assert engine.rollouts == len(COMPLETIONS)
    check_bounds_bind(settings, trainer.state.log_history[-1])
    return {
        "micro_batch_losses": losses,
        "weights": weights(trainer.accelerator.unwrap_model(trainer.model)),
    }


def check_bounds_bind(settings: dict[str, Any], means: dict[str, float]) -> None:
    """See that what a variant bounds did go beyond its bound, by the means that TRL logs."""
    if settings.get("num_iterations", 1) > 1:
        shares = ["cispo_clip_ratio"] if settings["loss_type"] == "cispo" else CLIP_SHARES
        assert all(0 < means[share] < 1 for share in shares), means
    if settings.get("vllm_importance_sampling_correction"):
        lowest, highest = (means[f"sampling/importance_sampling_ratio/{end}"] for end in BOTH_ENDS)
        assert lowest < 1 < highest == settings["vllm_importance_sampling_clip_max"], means


def weights(model: torch.nn.Module) -> dict[str, list[float]]:
    """Read all weights, to ten digits."""
    return {
        name: [float(f"{value:.10g}") for value in weight.flatten().tolist()]
        for name, weight in model.named_parameters()
    }


def main() -> None:
    """Record every variant."""
    golden = {
        "recorded_from": f"trl {trl.__version__}, GRPOTrainer.train",
        "case": {
            "config": CONFIG,
            "group_size": GROUP,
            "max_tokens": MAX_TOKENS,
            "learning_rate": LEARNING_RATE,
            "max_norm": MAX_NORM,
            "prompts": PROMPTS,
            "completions": COMPLETIONS,
            "sampling_logps": SAMPLING_LOGPS,
            "rewards": REWARDS,
        },
        "start": weights(build_model()),
        "variants": {
            name: {"settings": settings, **record(dict(settings))}
            for name, settings in VARIANTS.items()
        },
    }
    path = Path(__file__).with_name("trl_step.json")
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
