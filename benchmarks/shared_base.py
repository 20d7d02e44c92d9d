"""Peak memory of policy, reference and reward model on one base, beside three models and one.

    python benchmarks/shared_base.py --hidden 896 --layers 24 --vocab 151936

Weights are random: memory does not depend on what they say. Every arrangement runs in a process of
its own, which loads, samples nothing, scores and trains for one step on the same tokens.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from rlff_lightning.models.adapters import policy_without_adapter
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.group_logps import group_logps
from rlff_lightning.models.reward_head import HeadSettings, RewardModel
from rlff_lightning.models.shared_base import SharedRewardModel

ARRANGEMENTS = ("policy", "shared", "apart")
WRITE = "write"
LORA = LoraSettings(rank=16)


def main() -> int:
    """Write the models, run each arrangement and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--quantize", choices=["nf4"], default=None)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--completion", type=int, default=32, help="tokens")
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--arrangement", choices=[WRITE, *ARRANGEMENTS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arrangement:
        print(json.dumps(write(options) if options.arrangement == WRITE else measure(options)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        run(options, WRITE)
        rows = {name: run(options, name) for name in ARRANGEMENTS}
    print(table(rows))
    print(f"largest difference of a score, shared against apart: {difference(rows):.2g}")
    return 0


def run(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Run one step in a process that gives its memory back."""
    words = [sys.executable, __file__, "--arrangement", name]
    for key, value in vars(options).items():
        if value is not None and key != "arrangement":
            words += [f"--{key}", str(value)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{name}: {found['seconds']:.0f} s of CPU", file=sys.stderr)
    return found


def write(options: argparse.Namespace) -> dict[str, Any]:
    """Write base and reward model."""
    started, folder = time.process_time(), options.folder
    config = Qwen2Config(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 38 // 7,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, options.dtype))
    base.save_pretrained(folder / "base")
    del base
    words = Tokenizer(WordLevel({"<eos>": 0, "a": 1}, unk_token="<eos>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    tokenizer.save_pretrained(folder / "base")
    backbone = Backbone(
        str(folder / "base"),
        adapter=LORA,
        quantize=options.quantize,
        dtype=options.dtype,
    )
    reward = RewardModel(backbone.build_trunk(), HeadSettings())
    for name, weight in reward.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    reward.mark_trained()
    reward.save_pretrained(folder / "reward", tokenizer)
    return {"seconds": time.process_time() - started}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Load one arrangement, score, take the reference and train for a step."""
    started, at_start = time.process_time(), peak()
    base = Backbone(str(options.folder / "base"), quantize=options.quantize, dtype=options.dtype)
    policy = Backbone(
        base.model_name_or_path,
        adapter=LORA,
        quantize=options.quantize,
        dtype=options.dtype,
        gradient_checkpointing=True,
    ).build()
    torch.manual_seed(1)
    prompts = torch.randint(1, options.vocab, (1, options.prompt))
    completions = torch.randint(1, options.vocab, (options.group, options.completion))
    groups = (
        prompts,
        torch.ones_like(prompts).bool(),
        completions,
        torch.ones_like(completions).bool(),
    )
    scores: list[float] = []
    loaded = peak()
    with torch.no_grad():
        if options.arrangement == "shared":
            shared = SharedRewardModel(options.folder / "reward", policy)
            with policy_without_adapter(policy):
                group_logps(policy, *groups)
            with shared.active() as model:
                scores = model.values(model.forward_groups(*groups)).tolist()
        if options.arrangement == "apart":
            reference = base.build().requires_grad_(False).eval()
            reward = RewardModel.load(options.folder / "reward", dtype=options.dtype)
            group_logps(reference, *groups)
            scores = reward.values(reward.forward_groups(*groups)).tolist()
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad])
    (-group_logps(policy, *groups).logps.mean()).backward()
    optimizer.step()
    return {
        "start": at_start,
        "loaded": loaded,
        "peak": peak(),
        "scores": scores,
        "parameters": sum(p.numel() for p in policy.parameters()),
        "seconds": time.process_time() - started,
    }


def peak() -> int:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def table(rows: dict[str, dict[str, Any]]) -> str:
    """One row per arrangement, with its ratio to the policy alone."""
    alone = rows["policy"]
    lines = [
        f"{alone['parameters'] / 1e6:.0f} million parameters, adapters included",
        "",
        "| held | peak, MiB | of the policy alone | above imports, MiB | of the policy alone |",
        "|---|---|---|---|---|",
    ]
    names = {
        "policy": "policy",
        "shared": "policy, reference, reward model on one base",
        "apart": "three models",
    }
    for name, row in rows.items():
        own, first = row["peak"] - row["start"], alone["peak"] - alone["start"]
        lines.append(
            f"| {names[name]} | {row['peak']} | {row['peak'] / alone['peak']:.3f} | {own} | "
            f"{own / first:.3f} |"
        )
    return "\n".join(lines)


def difference(rows: dict[str, dict[str, Any]]) -> float:
    """Largest difference between the scores of both ways to hold the reward model."""
    pairs = zip(rows["shared"]["scores"], rows["apart"]["scores"], strict=True)
    return max(abs(one - other) for one, other in pairs)


if __name__ == "__main__":
    sys.exit(main())
