"""Record what whole training steps of TRL's ``GRPOTrainer`` make of a tiny model's weights.

Generation alone is replaced, by fixed tokens; rewards, advantages, loss, backward, clipping and
AdamW are TRL's. ``test_trl_step.py`` reads the JSON and needs no TRL. To record again, in an
environment with ``rlff-lightning[bench]``: ``python tests/golden/record_trl_step.py``.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

EOS, PAD = 1, 0
CONFIG: dict[str, Any] = {
    "vocab_size": 17,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "bos_token_id": None,
}
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
REWARDS = [[1.0, 0.25, -0.5, 0.5, 2.0, 0.75], [0.0, 1.5, 0.5, -1.0, 0.25, 0.5]]
VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dapo_kl_accumulated": {
        "loss_type": "dapo",
        "epsilon_high": 0.28,
        "beta": 0.1,
        "use_bias_correction_kl": False,
        "parts": 2,
    },
    "grpo_two_passes": {"loss_type": "grpo", "beta": 0.05, "num_iterations": 2},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
}


def build_model() -> Qwen2ForCausalLM:
    """Make a decoder whose weights follow from a formula, in float32."""
    model = Qwen2ForCausalLM(Qwen2Config(**CONFIG))
    with torch.no_grad():
        for index, (name, weight) in enumerate(model.named_parameters()):
            steps = torch.arange(weight.numel(), dtype=torch.float64)
            values = 0.4 * torch.sin(1.7 * steps + index) + ("norm" in name)
            weight.copy_(values.view(weight.shape))
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD)
    return model


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of one word per token: ``w5`` is token 5."""
    names = {f"w{i}": i for i in range(CONFIG["vocab_size"])}
    vocabulary = Tokenizer(models.WordLevel(names, unk_token="w2"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, eos_token=f"w{EOS}", pad_token=f"w{PAD}"
    )


def words(token_ids: list[int]) -> str:
    """Write tokens as the text that the tokenizer reads back."""
    return " ".join(f"w{token}" for token in token_ids)


class Recorder(GRPOTrainer):
    """GRPOTrainer that samples what it is told to."""

    rollouts = 0

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        assert prompt_ids == [prompt for prompt in PROMPTS for _ in range(GROUP)]
        self.rollouts += 1
        return COMPLETIONS[self.rollouts - 1], None


def record(settings: dict[str, Any]) -> dict[str, Any]:
    """Run two rollouts and all their updates."""
    parts = settings.pop("parts", 1)
    rows = len(PROMPTS) * GROUP
    steps = len(COMPLETIONS) * settings.get("num_iterations", 1)
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=rows // parts,
            gradient_accumulation_steps=parts,
            num_generations=GROUP,
            max_completion_length=MAX_TOKENS,
            learning_rate=LEARNING_RATE,
            adam_beta2=0.95,
            weight_decay=0.0,
            lr_scheduler_type="constant",
            max_grad_norm=MAX_NORM,
            max_steps=steps,
            shuffle_dataset=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        model = build_model().double()
        # The reference is loaded from a folder.
        source = Path(folder) / "start"
        model.save_pretrained(source)
        model.config._name_or_path = str(source)
        found = Recorder(
            model=model,
            reward_funcs=lambda **_: REWARDS[found.rollouts - 1],
            args=config,
            train_dataset=Dataset.from_list([{"prompt": words(prompt)} for prompt in PROMPTS]),
            processing_class=build_tokenizer(),
        )
        if found.ref_model is not None:
            assert next(found.ref_model.parameters()).dtype == torch.float64
        inner = found.training_step

        def training_step(*args: Any, **kwargs: Any) -> Any:
            loss = inner(*args, **kwargs)
            losses.append(loss.item())
            return loss

        found.training_step = training_step
        found.train()
    return {
        "micro_batch_losses": losses,
        "weights": weights(found.accelerator.unwrap_model(found.model)),
    }


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
