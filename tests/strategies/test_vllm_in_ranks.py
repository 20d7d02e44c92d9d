"""A policy by `rlff fit`, FSDP2 and a vLLM in each of two ranks; exports of what it wrote."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlff_lightning.commands.export import main as export
from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone

pytestmark = pytest.mark.timeout(3600)

PROMPTS = [[5, 7, 11, 13, 17, 19], [23, 29, 31]]
COMPLETIONS = [[37, 41, 43, 47], [53, 59]]


def test_a_run_that_was_stopped_within_an_iteration_ends_with_the_bits_of_one_that_was_not(
    made: Path,
) -> None:
    whole, stopped = (
        load_file(made / "rlff" / run / "adapter" / "adapter_model.safetensors")
        for run in ("whole", "stopped")
    )
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(stopped[name], weight) for name, weight in whole.items())
    assert max(w.abs().max().item() for n, w in whole.items() if "lora_B" in n) > 1e-2


def test_a_rank_whose_engine_kept_its_weights_stops_the_run_with_the_numbers(made: Path) -> None:
    first, second = ((made / f"said-{rank}.txt").read_text() for rank in range(2))
    line = next(line for line in second.splitlines() if line.startswith("rlff: error: "))
    assert "the engine's log-probabilities differ from the trainer's by " in line
    # The other rank's engine was in order: it only lost the one that died.
    assert "log-probabilities differ" not in first
    # A sync was proved before.
    assert (made / "rlff" / "stale" / "checkpoints" / "last.ckpt").is_symlink()


def logps_of(model: torch.nn.Module) -> list[float]:
    found: list[float] = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        with torch.no_grad():
            logits = model.eval()(torch.tensor([prompt + completion])).logits[0]
        logps = logits[len(prompt) - 1 : -1].log_softmax(-1)
        found += [row[token].item() for row, token in zip(logps, completion, strict=True)]
    return found


def test_a_folder_of_shards_exports_as_the_finished_policy(made: Path, tmp_path: Path) -> None:
    home = made / "rlff" / "whole"
    trained = logps_of(Backbone(str(home / "adapter")).build())
    before = logps_of(Backbone(str(made / "model")).build())
    assert max(abs(a - b) for a, b in zip(before, trained, strict=True)) > 1e-2
    shards = home / "checkpoints" / "last.ckpt"
    assert shards.is_symlink()
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    assert export([str(shards), "--output", str(adapter)]) == 0
    assert logps_of(Backbone(str(adapter)).build()) == pytest.approx(trained, abs=2e-5)
    assert export([str(shards), "--output", str(merged), "--merged"]) == 0
    plain = AutoModelForCausalLM.from_pretrained(merged)
    assert logps_of(plain) == pytest.approx(trained, abs=2e-5)
    engine = VLLMEngine(str(merged), max_model_len=64, kv_cache_gib=0.03)
    rows = engine.logps(PROMPTS, COMPLETIONS)
    engine.close()
    assert [v for row in rows for v in row] == pytest.approx(trained, abs=2e-5)


def test_shards_of_all_weights_export_bit_by_bit_and_damaged_ones_are_told_in_one_line(
    made: Path, tmp_path: Path
) -> None:
    home = made / "fsdp2" / "policy-full-clip"
    shards = tmp_path / "run" / "last.ckpt"
    shutil.copytree(home / "checkpoints" / "step=20.ckpt", shards)
    policy = {"policy": {"model_name_or_path": str(made / "model")}}
    stage = {"class_path": "rlff_lightning.modules.policy.PolicyModule", "init_args": policy}
    (shards.parent / "config.yaml").write_text(yaml.safe_dump({"model": stage}))
    export([str(shards), "--output", str(tmp_path / "out")])
    found, expected = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "out", home / "model")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    shard = max(shards.glob("*.distcp"), key=lambda file: file.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"last\.ckpt: damaged, or no checkpoint") as caught:
        export([str(shards), "--output", str(tmp_path / "none")])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "none").exists()
