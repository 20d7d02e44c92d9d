import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlff_lightning.functional.advantages import group_advantages
from rlff_lightning.functional.masked import masked_mean
from rlff_lightning.functional.objectives import CISPO, DAPO, GRPO, GSPO, DrGRPO
from rlff_lightning.functional.policy_objective import PolicyObjective
from rlff_lightning.functional.shaping import overlong_penalty, repetition_penalty

GOLDEN = json.loads(Path(__file__).with_name("trl_losses.json").read_text())
MAX_TOKENS = GOLDEN["max_tokens"]

# TRL's cispo takes the bound itself, 1.2; the paper's letter is the distance from 1.
OBJECTIVES: dict[str, PolicyObjective] = {
    "grpo": GRPO(),
    "grpo_separate_clips": GRPO(clip_low=0.1, clip_high=0.4),
    "grpo_delta": GRPO(max_ratio=1.3),
    "grpo_kl": GRPO(kl_coef=0.3),
    "grpo_mismatch": GRPO(),
    "grpo_mismatch_kl": GRPO(kl_coef=0.3),
    "grpo_mismatch_low_cap": GRPO(mismatch_cap=1.1),
    # TRL bounds the mean log ratio of engine to trainer, from above.
    "grpo_mismatch_low_range_kl": GRPO(kl_coef=0.3, mismatch_range=(math.exp(-0.15), math.inf)),
    "grpo_kl_corrected": GRPO(kl_coef=0.3, kl_correction=True),
    "grpo_delta_kl_corrected": GRPO(max_ratio=1.3, kl_coef=0.3, kl_correction=True),
    "dr_grpo": DrGRPO(max_tokens=MAX_TOKENS),
    "dr_grpo_kl": DrGRPO(max_tokens=MAX_TOKENS, kl_coef=0.3),
    "bnpo": GRPO(aggregation="token"),
    "bnpo_entropy": GRPO(aggregation="token", entropy_coef=0.05),
    "dapo": DAPO(),
    "dapo_mismatch_kl": DAPO(kl_coef=0.3),
    # TRL drops a token beyond the bound that caps ours: no kept one is cut.
    "dapo_mismatch_range": DAPO(mismatch_cap=1.6, mismatch_range=(0.5, 1.6)),
    "gspo": GSPO(clip_low=0.03, clip_high=0.04),
    "gspo_kl": GSPO(clip_low=0.2, clip_high=0.2, kl_coef=0.3),
    "gspo_kl_corrected": GSPO(clip_low=0.2, clip_high=0.2, kl_coef=0.3, kl_correction=True),
    "gspo_mismatch": GSPO(clip_low=0.2, clip_high=0.2),
    "cispo": CISPO(clip_high=0.2),
    "cispo_mismatch_kl": CISPO(clip_high=0.2, kl_coef=0.3),
}


def close(value: float | Tensor | None, expected: Any) -> None:
    torch.testing.assert_close(
        torch.as_tensor(value, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        rtol=1e-6,
        atol=1e-9,
    )


def case_of(variant: dict[str, Any]) -> dict[str, Tensor]:
    return {
        key: torch.tensor(rows, dtype=torch.bool if key == "loss_mask" else torch.float64)
        for key, rows in GOLDEN["cases"][variant["settings"]["case"]].items()
    }


def test_every_recorded_variant_is_compared() -> None:
    assert set(OBJECTIVES) == set(GOLDEN["variants"])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradients_equal_trls(name: str) -> None:
    objective, variant = OBJECTIVES[name], GOLDEN["variants"][name]
    tensors = case_of(variant)
    mask = tensors["loss_mask"]
    if not variant["settings"]["vllm_importance_sampling_correction"]:
        del tensors["sampling_logps"]
    for leaf in ("logps", "entropy"):
        tensors[leaf].requires_grad_()
    terms = objective.terms(**tensors)
    if objective.mismatch_range is not None and terms.mismatch is not None:
        assert 0 < terms.mismatch.is_dropped.sum() < len(mask)
    spans_window = variant["settings"]["loss_type"] in ("dapo", "cispo")
    size = GOLDEN["window_tokens"] if spans_window else objective.size(mask)
    loss = objective.loss(terms, mask, size).loss
    loss.backward()
    close(loss, variant["loss"])
    close(tensors["logps"].grad, variant["logps_grad"])
    if variant["entropy_grad"] is not None:
        close(tensors["entropy"].grad, variant["entropy_grad"])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_statistics_equal_trls(name: str) -> None:
    objective, variant = OBJECTIVES[name], GOLDEN["variants"][name]
    tensors, metrics = case_of(variant), variant["metrics"]
    mask = tensors["loss_mask"]
    terms = objective.terms(**tensors)
    low, high = terms.surrogate.is_clipped_low, terms.surrogate.is_clipped_high
    if isinstance(objective, CISPO):
        # TRL counts the bound of good tokens alone; of bad ones the weight is bounded too.
        is_good = tensors["advantages"].unsqueeze(-1) > 0
        assert (high & ~is_good).any()
        found = {"cispo_clip_ratio": masked_mean((high & is_good).double(), mask)}
    elif isinstance(objective, GSPO):
        # TRL averages a sequence's ratio over sequences; spread over tokens it weighs by length.
        found = {
            "clip_ratio/low_mean": low.any(1).double().mean(),
            "clip_ratio/high_mean": high.any(1).double().mean(),
        }
    else:
        found = {
            "clip_ratio/low_mean": masked_mean(low.double(), mask),
            "clip_ratio/high_mean": masked_mean(high.double(), mask),
        }
    if objective.kl_coef:
        assert terms.kl is not None
        found["kl"] = masked_mean(terms.kl, mask)
    assert found.keys() == metrics.keys()
    for key, value in found.items():
        assert value.item() == pytest.approx(metrics[key], rel=1e-5), key


@pytest.mark.parametrize("ratios", ["token", "sequence"])
def test_clipping_happens_on_both_sides_of_what_was_recorded(ratios: str) -> None:
    metrics = [
        variant["metrics"]
        for variant in GOLDEN["variants"].values()
        if variant["settings"]["importance_sampling_level"] == ratios
    ]
    for side in ("clip_ratio/low_mean", "clip_ratio/high_mean"):
        assert max(of_variant.get(side, 0) for of_variant in metrics) > 0


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_trls(scale: Any) -> None:
    golden = GOLDEN["advantages"]
    rewards = torch.tensor(golden["rewards"])
    found = group_advantages(rewards, golden["group_size"], scale=scale)
    close(found, golden["advantages"][scale])


def test_shaping_equals_trls() -> None:
    shaping = GOLDEN["shaping"]
    overlong = overlong_penalty(
        torch.tensor(shaping["lengths"]),
        max_tokens=MAX_TOKENS,
        buffer_tokens=shaping["buffer_tokens"],
    )
    assert overlong.tolist() == pytest.approx(shaping["overlong"])
    rows = [torch.tensor(ids) for ids in shaping["completion_ids"]]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    penalties = repetition_penalty(ids, mask, ngram_size=shaping["ngram_size"])
    assert penalties.tolist() == pytest.approx(shaping["repetition"])
