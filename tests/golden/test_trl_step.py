"""Whole training steps equal those of TRL's trainer, weight by weight, after several updates."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rlff_lightning.engines.base import Completion, Engine, Sampling
from rlff_lightning.functional.objectives import CISPO, DAPO, GRPO, GSPO, DrGRPO
from rlff_lightning.functional.policy_objective import PolicyObjective
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.rollout.contexts import ContextStream
from rlff_lightning.rollout.scorers import Sampled, Scorer
from rlff_lightning.rollout.settings import RolloutSettings
from rlff_lightning.types import Conversation, Message

GOLDEN = json.loads(Path(__file__).with_name("trl_step.json").read_text())
CASE = GOLDEN["case"]
# TRL's cispo takes the bound itself, 1.1; the paper's letter is the distance from 1.
OBJECTIVES: dict[str, PolicyObjective] = {
    "grpo": GRPO(mismatch_cap=None),
    "grpo_batch_scaled": GRPO(mismatch_cap=None),
    "dapo_kl_accumulated": DAPO(kl_coef=0.1, mismatch_cap=None),
    "dapo_kl_accumulated_capped": DAPO(kl_coef=0.1, kl_correction=True, mismatch_cap=2.0),
    "grpo_two_passes": GRPO(kl_coef=0.05, kl_correction=True, mismatch_cap=None),
    "dr_grpo": DrGRPO(max_tokens=CASE["max_tokens"], mismatch_cap=None),
    "gspo_two_passes": GSPO(clip_low=0.03, clip_high=0.04, mismatch_cap=None),
    "cispo_two_passes_capped": CISPO(clip_high=0.1, mismatch_cap=2.0),
}


def write_model(folder: Path) -> None:
    model = Qwen2ForCausalLM(Qwen2Config(**CASE["config"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.tensor(GOLDEN["start"][name]).view(weight.shape))
    eos, pad = CASE["config"]["eos_token_id"], CASE["config"]["pad_token_id"]
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad)
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(CASE["config"]["vocab_size"])}
    vocabulary = Tokenizer(models.WordLevel(words, unk_token="w2"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, eos_token=f"w{eos}", pad_token=f"w{pad}"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)


class Replay(Engine):
    """Samples what was recorded."""

    def __init__(self, folder: Path) -> None:
        self.model_name_or_path, self.rollouts = str(folder), 0

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        size = CASE["group_size"]
        assert [*prompts] == [prompt for prompt in CASE["prompts"] for _ in range(size)]
        self.rollouts += 1
        return [
            Completion(token_ids=tuple(ids), logps=tuple(logps), text="", is_finished=True)
            for ids, logps in zip(
                CASE["completions"][self.rollouts - 1],
                CASE["sampling_logps"][self.rollouts - 1],
                strict=True,
            )
        ]

    def logps(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        return [[0.0] * len(completion) for completion in completions]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        return

    def load_adapter(self, folder: Path, version: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        return


class Prompts(ContextStream):
    """The recorded prompts, again and again."""

    def start(self, seed: int) -> None:
        return

    def take(self, count: int) -> list[Conversation]:
        texts = [" ".join(f"w{token}" for token in prompt) for prompt in CASE["prompts"]]
        return [
            Conversation(id=text, messages=(Message(role="seeker", text=text),)) for text in texts
        ]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return


class Rewards(Scorer):
    """The recorded rewards."""

    name = "recorded"
    rollouts = 0

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        self.rollouts += 1
        return torch.tensor(CASE["rewards"][self.rollouts - 1])


class Losses(Callback):
    """Whole losses by step, from what is logged."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        logged = trainer.callback_metrics
        if trainer.global_step > len(self.found):
            self.found.append(logged["train/loss"].item())


def test_every_recorded_variant_is_compared() -> None:
    assert set(OBJECTIVES) == set(GOLDEN["variants"])


# In float32 by the kernels that training uses, in float64 by torch's own.
@pytest.mark.parametrize(("precision", "rounding"), [("64-true", 1e-6), ("32-true", 1e-4)])
@pytest.mark.parametrize("sharing", ["shared", "padded"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_after_training_equal_trls(
    name: str,
    sharing: Any,
    precision: Any,
    rounding: float,
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    variant, objective = GOLDEN["variants"][name], OBJECTIVES[name]
    settings = variant["settings"]
    parts, epochs = settings.get("parts", 1), settings.get("num_iterations", 1)
    write_model(tmp_path / "start")
    module = PolicyModule(
        Backbone(str(tmp_path / "start")),
        Replay(tmp_path / "start"),
        Prompts(),
        [Rewards()],
        objective=objective,
        rollout=RolloutSettings(
            prompts=len(CASE["prompts"]),
            group_size=CASE["group_size"],
            max_tokens=CASE["max_tokens"],
            epochs=epochs,
            iterations_per_epoch=len(CASE["completions"]),
            advantage_scale=settings.get("scale_rewards", "group"),
        ),
        learning_rate=CASE["learning_rate"],
        sharing=sharing,
        max_mismatch=float("inf"),
    )
    losses = Losses()
    trainer = quiet_trainer(
        tmp_path,
        max_epochs=1,
        accumulate_grad_batches=parts,
        gradient_clip_val=CASE["max_norm"],
        precision=precision,
        callbacks=[losses],
    )
    trainer.fit(module)
    steps = epochs * len(CASE["completions"])
    assert trainer.global_step == steps
    # The moves are of the size of the learning rate, 1e-2.
    for weight_name, weight in module.model.named_parameters():  # type: ignore[union-attr]
        expected = torch.tensor(variant["weights"][weight_name], dtype=torch.float64)
        start = torch.tensor(GOLDEN["start"][weight_name], dtype=torch.float64)
        assert (expected - start).abs().max() > 1e-3 * CASE["learning_rate"], weight_name
        gap = (weight.flatten() - expected).abs().max().item()
        assert gap < rounding, weight_name
    whole = torch.tensor(variant["micro_batch_losses"]).view(steps, parts).sum(1)
    assert losses.found == pytest.approx(whole.tolist(), abs=rounding)
