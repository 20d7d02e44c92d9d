"""Real-size recipes: every hardware's configs parse, and their models are what they are said to be.

The architectures' numbers are those of the public configs; no weights are needed.
"""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.commands.plan import _placeholders
from rlff_lightning.commands.plan_model import PlannedModel, planned_model
from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.commands.stages import read_stages
from rlff_lightning.commands.trainer_run import resolve
from rlff_lightning.models.output_head import output_head
from rlff_lightning.models.without_weights import (
    count_parameters,
    read_model_config,
    sharding_units,
)

RECIPES = config_folder() / "recipes"
HARDWARE = [None, *sorted(path.name for path in (RECIPES / "hardware").iterdir())]
STAGES = read_stages(RECIPES)
# As their publishers state them.
PARAMETERS = {"Qwen2.5-7B-Instruct-1M": 7_615_616_512, "Llama-3.1-8B-Instruct": 8_030_261_248}
LAYERS = {"Qwen2.5-7B-Instruct-1M": 28, "Llama-3.1-8B-Instruct": 32}
# rank 16 times (inputs + outputs) of q, k, v, o, gate, up, down, in every layer.
ADAPTER = {
    "Qwen2.5-7B-Instruct-1M": 28 * 16 * (2 * 7168 + 2 * 4096 + 3 * (3584 + 18944)),
    "Llama-3.1-8B-Instruct": 32 * 16 * (2 * 8192 + 2 * 5120 + 3 * (4096 + 14336)),
}
TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@cache
def resolved(name: str, hardware: str | None) -> dict[str, Any]:
    stage = next(stage for stage in STAGES if stage.name == name)
    words = ["--config", str(stage.config)]
    overlay = RECIPES / "hardware" / str(hardware) / f"{name}.yaml"
    words += ["--config", str(overlay)] if overlay.is_file() else []
    return resolve([stage.verb, *words, *_placeholders(stage.config)])


def arguments(name: str, hardware: str | None) -> dict[str, Any]:
    found: dict[str, Any] = resolved(name, hardware)["model"]["init_args"]
    return found


def planned(model: str, stage: str, hardware: str | None, key: str) -> PlannedModel:
    """Describe a stage's model as its config has it, in the sizes of `model`."""

    def read(config: Path) -> dict[str, Any]:
        earlier = next(stage for stage in STAGES if stage.config == config)
        return resolved(earlier.name, hardware)

    config = next(found.config for found in STAGES if found.name == stage)
    found = planned_model(arguments(stage, hardware)[key], config, read)
    shape = read_model_config(str(RECIPES / "shapes" / f"{model}.json"))
    return replace(found, architecture=shape)


def test_there_are_five_stages_and_four_machines() -> None:
    names = [stage.name for stage in STAGES]
    assert names == ["warm_start", "futures", "reward_model", "policy", "evaluate"]
    assert HARDWARE == [None, "2x8", "48gb", "80gb"]


@pytest.mark.parametrize("hardware", HARDWARE, ids=str)
def test_a_machine_changes_sizes_and_never_the_task(hardware: str | None) -> None:
    for stage in STAGES:
        given, base = (arguments(stage.name, which) for which in (hardware, None))
        for key in ("chat", "reads", "futures", "candidates", "objective", "num_episodes"):
            assert given.get(key) == base.get(key), (stage.name, key)
        chats = re.findall(r"'system': (.*?)'max_messages': \d+", str(given))
        assert len(set(chats)) <= 1


@pytest.mark.parametrize("hardware", ["48gb", "80gb"])
def test_one_gpu_of_any_size_makes_the_same_updates(hardware: str) -> None:
    for name in ("warm_start", "reward_model"):
        sizes = [
            found["trainer"]["accumulate_grad_batches"] * found["data"]["init_args"]["batch_size"]
            for found in (resolved(name, which) for which in (hardware, None))
        ]
        assert sizes[0] == sizes[1]
    assert arguments("policy", hardware)["rollout"] == arguments("policy", None)["rollout"]


@pytest.mark.parametrize("hardware", HARDWARE, ids=str)
def test_what_a_stage_reads_an_earlier_one_writes(hardware: str | None) -> None:
    is_whole = hardware == "2x8"
    policy = arguments("policy", hardware)
    assert policy["policy"]["model_name_or_path"] == "warm_start/model"
    assert policy["engine"]["init_args"]["model_name_or_path"] == "warm_start/model"
    assert policy["engine"]["init_args"]["enable_lora"] is not is_whole
    assert policy["scorers"][0]["init_args"]["folder"] == "reward_model/model"
    assert policy["scorers"][0]["init_args"]["share_base"] is not is_whole
    played = arguments("evaluate", hardware)["policies"]["rlff"]["init_args"]["engine"]
    written = "policy/model" if is_whole else "policy/adapter"
    assert played["init_args"]["model_name_or_path"] == written


@pytest.mark.parametrize("hardware", HARDWARE, ids=str)
def test_engine_and_limits_hold_the_longest_prompt_and_reply(hardware: str | None) -> None:
    policy = arguments("policy", hardware)
    longest = policy["chat"]["max_prompt_tokens"] + policy["rollout"]["max_tokens"]
    assert policy["engine"]["init_args"]["max_model_len"] >= longest
    assert arguments("reward_model", hardware)["reads"]["max_tokens"] >= longest


@pytest.mark.parametrize("model", PARAMETERS)
def test_a_recipe_s_model_has_the_published_number_of_parameters(model: str) -> None:
    whole = planned(model, "warm_start", "2x8", "backbone").build(None)
    assert count_parameters(whole) == (PARAMETERS[model], 0, PARAMETERS[model])
    assert output_head(whole).weight.shape[0] == whole.config.vocab_size
    units = sharding_units(whole)
    assert units == [f"model.layers.{number}" for number in range(LAYERS[model])]
    inside = sum(p.numel() for name in units for p in whole.get_submodule(name).parameters())
    outside = {n for n, _ in whole.named_parameters() if not n.startswith("model.layers.")}
    assert outside == {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}
    config = whole.config
    rest = 2 * config.vocab_size * config.hidden_size + config.hidden_size
    assert inside + rest == PARAMETERS[model]


@pytest.mark.parametrize(
    ("stage", "key"),
    [("warm_start", "backbone"), ("reward_model", "backbone"), ("policy", "policy")],
)
@pytest.mark.parametrize("model", PARAMETERS)
def test_adapters_go_on_every_linear_layer_but_the_head_over_four_bits(
    model: str, stage: str, key: str
) -> None:
    adapted = planned(model, stage, None, key).build(None)
    counts = count_parameters(adapted)
    assert counts == (PARAMETERS[model], ADAPTER[model], ADAPTER[model])
    names = {n.split(".")[-4] for n, _ in adapted.named_parameters() if ".lora_A." in n}
    assert names == TARGETS
    assert len(sharding_units(adapted)) == LAYERS[model]
    packed = [n for n, p in adapted.named_parameters() if not p.is_floating_point()]
    assert len(packed) == 7 * LAYERS[model]
    assert not any("lm_head" in name for name in packed)
