"""TRL's side: ``GRPOTrainer`` with the same shape, by the generation path that is asked for."""

import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

from grpo_sides.task import LORA_RANK, Meter, Task, open_answers, prompt_text, reward


def main(task: Task, folder: Path, options: dict[str, Any]) -> None:
    """Train until the parent has enough, with the best of the micro-batches to choose from."""
    open_answers()
    torch.set_num_threads(1)
    if options["generation"] == "vllm":
        # As this project's own engine sets them for a CPU.
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    sizes = options["micro_batches"]
    updates = {}
    for size in sizes if len(sizes) > 1 else []:
        rows = train(task, folder, {"generation": "none"}, size, num_steps=4)
        updates[size] = median(row["update_s"] for row in rows[1:])
    best = min(updates, key=lambda size: updates[size]) if updates else sizes[0]
    print(f"update by micro-batch: {updates}", file=sys.stderr, flush=True)
    train(task, folder, options, best)
    sys.exit(1)


def train(
    task: Task, folder: Path, options: dict[str, Any], micro_batch: int, num_steps: int = 0
) -> list[dict[str, float]]:
    """Run ``num_steps`` iterations and return their rows, or serve the parent if it is 0."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    meter = Meter()
    rows: list[dict[str, float]] = []

    class Reporter(TrainerCallback):
        def on_train_begin(self, *args: Any, optimizer: Any, **kwargs: Any) -> None:
            meter.timed(optimizer, "step", "update")

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.read_memory()
            if num_steps:
                rows.append(row())
                meter.begin()
            else:
                meter.serve(row)

    def row() -> dict[str, float]:
        spent, total = meter.seconds, meter.total()
        return {
            "generate_s": spent["generate"],
            "sync_s": spent["sync"],
            # Losses, their gradients, clipping and the step; loaders and callbacks are in neither.
            "update_s": spent["update"] - spent["rollout"],
            "iteration_s": total,
            "peak_mb": meter.peak_mb,
            "micro_batch": micro_batch,
        }

    config = GRPOConfig(
        output_dir=str(folder.parent / "trl"),
        use_cpu=True,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=task.rows // micro_batch,
        num_generations=task.group,
        max_completion_length=task.completion,
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
        learning_rate=1e-6,
        adam_beta2=0.95,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        max_steps=num_steps or 10**6,
        use_vllm=options["generation"] == "vllm",
        vllm_mode="colocate",
        vllm_max_model_length=task.prompt + task.completion + 1,
        gradient_checkpointing=False,
        bf16=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=lambda completion_ids, **_: [reward(ids) for ids in completion_ids],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt_text(task, i)} for i in range(256)]),
        # AutoTokenizer would take the folder's for Qwen2's own, which splits otherwise.
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
        peft_config=lora if task.mode == "lora" else None,
        callbacks=[Reporter()],
    )
    if options["generation"] == "none":
        tokens = torch.randint(1, task.vocab, (task.rows, task.completion)).tolist()
        trainer._generate_single_turn = lambda *_, **__: (tokens, None)
    meter.timed(trainer, "training_step", "update")
    meter.timed(trainer.accelerator, "clip_grad_norm_", "update")
    meter.timed(trainer, "_generate_single_turn", "generate")
    meter.timed(trainer, "_generate_and_score_completions", "rollout")
    if config.use_vllm:
        meter.timed(trainer.vllm_generation, "sync_weights", "sync")
    produce = trainer._generate_and_score_completions

    def rollout(inputs: Any) -> Any:
        found = produce(inputs)
        meter.watch_memory()
        return found

    trainer._generate_and_score_completions = rollout
    meter.begin()
    trainer.train()
    return rows
