from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.commands.plan_batch import Assumed
from rlff_lightning.commands.plan_stage import PlannedStage, read_stage
from rlff_lightning.errors import UserError

MODULES = "rlff_lightning.modules"
POCKET = {"num_layers": 2, "vocab_size": 512}


def stage(
    kind: str, arguments: dict[str, Any], folder: Path, **sections: dict[str, Any]
) -> PlannedStage:
    """Read a stage that stands behind a pocket model's warm start."""
    (folder / "1_warm_start.fit.yaml").touch()
    resolved = {
        "trainer": {"accelerator": "cpu", **sections.pop("trainer", {})},
        "model": {"class_path": f"{MODULES}.{kind}", "init_args": arguments},
        **sections,
    }
    return read_stage(
        resolved,
        folder / "2_stage.fit.yaml",
        lambda _: {"model": {"init_args": {"pocket": POCKET}}},
        gpus=None,
        architecture=None,
        assumed=Assumed(),
    )


def policy(folder: Path, trainer: dict[str, Any] | None = None, **more: Any) -> PlannedStage:
    arguments = {"policy": {"model_name_or_path": "warm_start/model"}, "rollout": None, **more}
    return stage("policy.PolicyModule", arguments, folder, trainer=trainer or {})


def test_a_policy_without_rollout_is_planned_by_the_module_s_defaults(tmp_path: Path) -> None:
    found = policy(tmp_path)
    # 16 contexts of 8 replies of at most 256 tokens, after prompts of at most 1024.
    assert (found.batch.groups, found.batch.group_size, found.completions) == (16, 8, 128)
    assert (found.batch.prompt_tokens, found.batch.reply_tokens) == (1024, 256)


def test_a_policy_is_not_planned_in_a_precision_that_its_stage_refuses(tmp_path: Path) -> None:
    assert policy(tmp_path, {"precision": "bf16-mixed"}).precision == "bf16-mixed"
    with pytest.raises(UserError, match="precision must not be bf16-true for a policy"):
        policy(tmp_path, {"precision": "bf16-true"})


@pytest.mark.parametrize("field", ["prompts", "updates", "max_tokens"])
def test_a_rollout_of_nothing_is_told_by_its_field(tmp_path: Path, field: str) -> None:
    with pytest.raises(UserError, match=rf"RolloutSettings\.{field} must be at least 1, got 0"):
        policy(tmp_path, rollout={field: 0})


def test_sizes_of_nothing_are_told_by_their_keys(tmp_path: Path) -> None:
    supervised = "supervised.SupervisedModule"
    with pytest.raises(UserError, match=r"must have a backbone or a pocket, got neither"):
        stage(supervised, {"backbone": None, "pocket": None}, tmp_path)
    empty = {"class_path": "data.Some", "init_args": {"batch_size": 0}}
    with pytest.raises(UserError, match=r"data\.init_args\.batch_size must be at least 1, got 0"):
        stage(supervised, {"pocket": POCKET}, tmp_path, data=empty)
    with pytest.raises(UserError, match=r"trainer\.accumulate_grad_batches must be at least 1"):
        policy(tmp_path, {"accumulate_grad_batches": 0})


@pytest.mark.parametrize(
    ("trainer", "number"),
    [
        ({"devices": "0,1"}, 2),
        ({"devices": [0, 3], "num_nodes": 2}, 4),
        ({"devices": "3"}, 3),
        ({"devices": "auto"}, 1),
    ],
)
def test_devices_are_counted_as_the_trainer_does(
    tmp_path: Path, trainer: dict[str, Any], number: int
) -> None:
    assert policy(tmp_path, trainer).processes == number


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        ({"accelerator": "gpu", "devices": -1}, "-1 means what the machine that trains has; give"),
        ({"accelerator": "auto", "devices": "auto"}, "auto means what the machine that trains has"),
        ({"devices": 0}, "trainer.devices must be at least 1, got 0"),
        ({"devices": "some"}, "trainer.devices must be at least 1, got 'some'"),
        ({"num_nodes": 0}, "trainer.num_nodes must be at least 1, got 0"),
    ],
)
def test_devices_that_only_the_machine_knows_are_asked_for(
    tmp_path: Path, trainer: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as caught:
        policy(tmp_path, trainer)
    assert told in str(caught.value)
