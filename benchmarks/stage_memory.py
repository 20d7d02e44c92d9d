"""Compare `rlff plan` with what whole stages take, run by `rlff fit` on this machine's CPU.

    python benchmarks/stage_memory.py [--json FILE] [--only NAME ...]

Each stage has a config as a user would write it, trains a model with random weights on words drawn
at random, all as long as its config allows, and runs in a process of its own. Measured is the
resident memory at its highest from the second update on (loading has its own peak), less what the
process held after its imports; engine, reward model and all else of the stage are in it.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from grpo_sides.ours import EvenTokens
from lightning.pytorch import Callback
from memory import SHAPES, config_of, resident

from rlff_lightning.data.labelled import LabelledReplies
from rlff_lightning.data.replies import Replies
from rlff_lightning.rollout.contexts import ContextStream
from rlff_lightning.types import Conversation, Dialogue, LabelledReply, Message

__all__ = ["EvenTokens"]  # named by the configs below
HERE = Path(__file__).resolve().parent
PROMPT, REPLY, GROUP = 384, 96, 8
VLLM = "rlff_lightning.engines.vllm.VLLMEngine"
LORA: dict[str, Any] = {"adapter": {"rank": 16}}
QLORA: dict[str, Any] = {**LORA, "quantize": "nf4", "dtype": "bfloat16"}
RECOMPUTED = {"gradient_checkpointing": True}
CASES: dict[str, dict[str, Any]] = {
    "50M-supervised-full": {"stage": "supervised", "rows": 4},
    "50M-reward-full": {"stage": "reward", "rows": 2},
    "50M-reward-lora": {"stage": "reward", "rows": 2, "model": LORA},
    "50M-policy-full": {"stage": "policy", "groups": 1},
    "50M-policy-full-reference-scored": {
        "stage": "policy",
        "groups": 1,
        "scored": True,
        "reference": True,
    },
    "50M-policy-lora-adapter": {
        "stage": "policy",
        "groups": 1,
        "model": LORA,
        "engine": {"enable_lora": True, "max_lora_rank": 16},
    },
    "130M-supervised-full": {"stage": "supervised", "rows": 4},
    "130M-supervised-qlora-checkpointing": {
        "stage": "supervised",
        "rows": 8,
        "model": {**QLORA, **RECOMPUTED},
    },
    "130M-reward-lora": {"stage": "reward", "rows": 2, "model": LORA},
    "130M-policy-full": {"stage": "policy", "groups": 1},
    "130M-policy-lora-scored": {"stage": "policy", "groups": 1, "model": LORA, "scored": True},
    "130M-policy-qlora-checkpointing": {
        "stage": "policy",
        "groups": 2,
        "model": {**QLORA, **RECOMPUTED},
    },
}
"""What each stage trains; ``rows`` and ``groups`` are those of one micro-batch."""


def words(count: int, draw: random.Random, vocab: int) -> str:
    """Draw words of one token each."""
    return " ".join(f"w{draw.randrange(2, vocab)}" for _ in range(count))


class LongPrompts(ContextStream):
    """Contexts of one long message.

    Args:
        vocab: Words there are.
    """

    def __init__(self, vocab: int) -> None:
        self.vocab, self.next = vocab, 0

    def start(self, seed: int) -> None:
        return

    def take(self, count: int) -> list[Conversation]:
        first, self.next = self.next, self.next + count
        return [_context(number, self.vocab) for number in range(first, self.next)]

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


class LongReplies(Replies):
    """Dialogues of one long message and one long reply.

    Args:
        vocab: Words there are.
        batch_size: Examples per batch.
    """

    def __init__(self, vocab: int, batch_size: int) -> None:
        super().__init__(batch_size, 0.0, 0)
        self.vocab = vocab

    def dialogues(self) -> list[Dialogue]:
        return [
            Dialogue(id=str(n), messages=(*_context(n, self.vocab).messages, _reply(n, self.vocab)))
            for n in range(4 * self.batch_size)
        ]


class LongLabelled(LabelledReplies):
    """Four labelled long replies to each long context.

    Args:
        vocab: Words there are.
        batch_size: Contexts per batch.
    """

    def __init__(self, vocab: int, batch_size: int) -> None:
        super().__init__(batch_size, 0.0, 0.0, 0)
        self.vocab = vocab

    def labelled(self) -> list[LabelledReply]:
        return [
            LabelledReply(
                context=_context(n, self.vocab),
                reply=_reply(4 * n + k, self.vocab),
                value=random.Random(4 * n + k).random(),
                standard_error=0.0,
            )
            for n in range(4 * self.batch_size)
            for k in range(4)
        ]


def _context(number: int, vocab: int) -> Conversation:
    text = words(PROMPT, random.Random(number), vocab)
    message = Message(role="seeker", text=text)
    return Conversation(id=str(number), messages=(message,), source=str(number))


def _reply(number: int, vocab: int) -> Message:
    # The end of sequence is the last token.
    text = words(REPLY - 1, random.Random(-1 - number), vocab)
    return Message(role="supporter", text=text)


class Peak(Callback):
    """Prints what the process held at most, from the second update on, beyond its imports."""

    def __init__(self) -> None:
        import torch

        # What a stage imports as it goes: two thousand modules.
        for name in ("entrypoints.llm", "v1.worker.cpu_worker", "model_executor.models.qwen2"):
            import_module(f"vllm.{name}")
        torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())
        self.before = resident("VmRSS")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 1:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def on_train_end(self, trainer: Any, module: Any) -> None:
        sys.stdout.write(f"MEASURED {resident('VmHWM') - self.before}\n")


def write_model(shape: str, folder: Path) -> int:
    """Write a model with random weights and a tokenizer of one word per token.

    Returns:
        Words there are.
    """
    import torch
    from grpo_sides.task import word_tokenizer
    from transformers import GenerationConfig, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = config_of(shape)
    config.eos_token_id, config.pad_token_id, config.bos_token_id = 1, 0, None
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    model.save_pretrained(folder)
    names = ["<pad>", "<eos>", *(f"w{i}" for i in range(2, config.vocab_size))]
    word_tokenizer(names, unknown="w2").save_pretrained(folder)
    return int(config.vocab_size)


def cache_bytes(shape: str) -> int:
    """Give the bytes of a token's keys and values in float32."""
    sizes = SHAPES[shape]
    return 2 * 4 * sizes["layers"] * sizes["kv"] * sizes["hidden"] // sizes["heads"]


def write_reward_model(model: Path, folder: Path) -> None:
    """Write a reward model of the same architecture, as its stage would."""
    from rlff_lightning.dialogue.reward_format import RewardInput, write_reward_input
    from rlff_lightning.models.backbone import Backbone
    from rlff_lightning.models.head_settings import HeadSettings
    from rlff_lightning.models.reward_head import RewardModel

    backbone = Backbone(str(model))
    scorer = RewardModel(backbone.build_trunk(), HeadSettings())
    scorer.mark_trained()
    scorer.save_pretrained(folder, backbone.tokenizer())
    write_reward_input(RewardInput(max_tokens=PROMPT + REPLY), folder)


def write_config(name: str, folder: Path, vocab: int) -> Path:
    """Write a stage's config."""
    case, model = CASES[name], str(folder / "model")
    backbone = {"model_name_or_path": model, **case.get("model", {})}
    chat = {"max_prompt_tokens": PROMPT}
    stage, data = case["stage"], None
    if stage == "supervised":
        module, arguments = "supervised.SupervisedModule", {"backbone": backbone, "chat": chat}
        data = "LongReplies"
    elif stage == "reward":
        module = "reward_model.RewardModule"
        arguments = {"backbone": backbone, "reads": {"max_tokens": PROMPT + REPLY}}
        data = "LongLabelled"
    else:
        module = "policy.PolicyModule"
        scorers: list[dict[str, Any]] = [{"class_path": "stage_memory.EvenTokens"}]
        if case.get("scored"):
            write_reward_model(folder / "model", folder / "reward")
            scorer = "rlff_lightning.rollout.reward_scorer.RewardModelScorer"
            arguments = {"folder": str(folder / "reward"), "batch_size": GROUP}
            scorers = [{"class_path": scorer, "init_args": arguments}]
        length = PROMPT + REPLY + 1
        # So small that all of it is written to: a CPU's memory is taken page by page.
        tokens = case["groups"] * (PROMPT + GROUP * (REPLY + 1))
        cache = 1.5 * tokens * cache_bytes(name.partition("-")[0]) / 2**30
        engine = {"model_name_or_path": model, "max_model_len": length, "kv_cache_gib": cache}
        engine |= {"max_num_batched_tokens": 4 * length, **case.get("engine", {})}
        objective = "rlff_lightning.functional.objectives.GRPO"
        kl = 0.05 if case.get("reference") else 0.0
        arguments = {
            "policy": backbone,
            "engine": {"class_path": VLLM, "init_args": engine},
            "contexts": {
                "class_path": "stage_memory.LongPrompts",
                "init_args": {"vocab": vocab},
            },
            "scorers": scorers,
            "rollout": {"prompts": case["groups"], "group_size": GROUP, "max_tokens": REPLY},
            "objective": {"class_path": objective, "init_args": {"kl_coef": kl}},
            "chat": chat,
            "adapter_sync": "adapter" if engine.get("enable_lora") else "merged",
            # The engine of a 4-bit policy gets the weights that the 4 bits stand for, in bfloat16.
            "max_mismatch": 1.0,
        }
    config: dict[str, Any] = {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "default_root_dir": str(folder / "run"),
            "max_steps": 3,
            "limit_val_batches": 0,
            "logger": False,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "callbacks": [{"class_path": "stage_memory.Peak"}],
        },
        "model": {"class_path": f"rlff_lightning.modules.{module}", "init_args": arguments},
    }
    if data:
        given = {"vocab": vocab, "batch_size": case["rows"]}
        config["data"] = {"class_path": f"stage_memory.{data}", "init_args": given}
    file = folder / "stage.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def run(words: Sequence[str]) -> str:
    """Run `rlff` with these words; give what it printed."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rlff_lightning.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stderr[-3000:]}")
    return done.stdout


def main() -> int:
    """Run the stages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", choices=CASES, help="names of stages")
    options = parser.parse_args()
    rows = []
    for name in options.only or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            vocab = write_model(name.partition("-")[0], folder / "model")
            file = str(write_config(name, folder, vocab))
            planned = json.loads(
                run(["plan", "--config", file, "--reply-tokens", str(REPLY), "--json"])
            )
            found = re.search(r"MEASURED (\d+)", run(["fit", "--config", file]))
            assert found is not None, f"{name}: no step was taken"
        total, measured = planned["total"], int(found[1])
        parts = {part["name"]: part["size"] for part in planned["parts"]}
        rows.append({"case": name, "measured": measured, "estimated": total, "parts": parts})
        print(
            f"{name:38} measured {measured / 2**20:7.0f} MiB, estimated {total / 2**20:7.0f} MiB, "
            f"{total / measured - 1:+.1%}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
