"""TRL's ``GRPOTrainer`` on a tiny model that samples what it is told to, for the recorders.

Its vLLM alone is replaced, by one that returns fixed tokens with fixed log-probabilities; what
follows from them, the importance weights between engine and trainer included, TRL computes.
"""

import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer

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


class FixedEngine:
    """Stands where TRL's vLLM does; one entry per rollout, then one per completion."""

    def __init__(
        self, completions: list[list[list[int]]], sampling_logps: list[list[list[float]]]
    ) -> None:
        self.completions, self.sampling_logps, self.rollouts = completions, sampling_logps, 0

    def sync_weights(self) -> None:
        return

    def generate(self, prompts: list[list[int]], **_: Any) -> Any:
        completions = self.completions[self.rollouts]
        assert len(prompts) == len(completions)
        logps = [[[logp] for logp in row] for row in self.sampling_logps[self.rollouts]]
        self.rollouts += 1
        return prompts, completions, logps, None


def build_trainer(
    folder: Path,
    engine: FixedEngine,
    prompts: list[list[int]],
    rewards: list[list[float]],
    **settings: Any,
) -> GRPOTrainer:
    """Make a trainer of a float64 model.

    Args:
        folder: Where the reference is loaded from.
        engine: What samples.
        prompts: One list of tokens per prompt.
        rewards: One list per rollout.
        settings: Of ``GRPOConfig``.

    Returns:
        The trainer; TRL's own, but for its engine.
    """
    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_vllm=True,
        **settings,
    )
    model = build_model().double()
    source = folder / "start"
    model.save_pretrained(source)
    model.config._name_or_path = str(source)
    texts = [" ".join(f"w{token}" for token in prompt) for prompt in prompts]
    with patch.object(grpo_trainer, "VLLMGeneration", lambda **_: engine):
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda **_: rewards[engine.rollouts - 1],
            args=config,
            train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
            processing_class=build_tokenizer(),
        )
    if trainer.ref_model is not None:
        assert next(trainer.ref_model.parameters()).dtype == torch.float64
    return trainer


def score_rollout(
    rewards: list[float], group_size: int, tensors: dict[str, Tensor] | None, **settings: Any
) -> dict[str, Tensor]:
    """Run ``GRPOTrainer._generate_and_score_completions`` on one rollout.

    Args:
        rewards: One per completion.
        group_size: Completions per prompt.
        tensors: What the trainer and the engine find of their tokens; ``None``: nothing fixed.
        settings: Of ``GRPOConfig``.

    Returns:
        What TRL prepares for its loss.
    """
    rows = len(rewards)
    lengths = [1] * rows if tensors is None else tensors["loss_mask"].sum(1).tolist()
    logps = torch.zeros(rows, 1) if tensors is None else tensors["sampling_logps"]
    engine = FixedEngine(
        [[[2] * length for length in lengths]],
        [[row[:length] for row, length in zip(logps.tolist(), lengths, strict=True)]],
    )
    prompts = [[3 + i] for i in range(rows // group_size)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            Path(folder),
            engine,
            prompts,
            [rewards],
            per_device_train_batch_size=rows,
            num_generations=group_size,
            **settings,
        )
        if tensors is not None:
            found = (tensors["old_logps"], None, None)
            trainer._get_per_token_logps_and_entropies = lambda *_, **__: found
        inputs = [{"prompt": f"w{ids[0]}"} for ids in prompts for _ in range(group_size)]
        return trainer._generate_and_score_completions(inputs)
