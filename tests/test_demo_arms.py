"""The demo's two arms are one recipe: they differ in the number of futures and in paths alone."""

from pathlib import Path

import pytest
import yaml

from rlff_lightning.commands.trainer_run import resolve

DEMO = Path(__file__).parent.parent / "configs" / "demo"
PAIRS = [
    ("2_futures.predict.yaml", "3_futures_immediate.predict.yaml", "futures"),
    ("4_reward_model.fit.yaml", "5_reward_model_immediate.fit.yaml", "reward_model"),
    ("6_policy.fit.yaml", "7_policy_immediate.fit.yaml", "policy"),
]


def leaves(value, path=()):
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, (*path, key)).items()}
    if isinstance(value, list):
        pairs = enumerate(value)
        return {k: v for key, item in pairs for k, v in leaves(item, (*path, key)).items()}
    return {path: value}


@pytest.mark.parametrize(("future", "immediate", "stage"), PAIRS)
def test_arms_differ_in_k_and_in_their_folders_alone(future, immediate, stage):
    ours = leaves(yaml.safe_load((DEMO / future).read_text()))
    theirs = leaves(yaml.safe_load((DEMO / immediate).read_text()))
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        if path[-1] == "num_futures":
            assert (value > 0, theirs[path]) == (True, 0)
        elif theirs[path] != value:
            folders = ("futures", "reward_model", "policy")
            expected = value
            for folder in folders:
                if value == folder or value.startswith(f"{folder}/"):
                    expected = value.replace(folder, f"{folder}_immediate", 1)
            assert theirs[path] == expected != value


def test_policies_are_compared_on_the_same_terms():
    stage = yaml.safe_load((DEMO / "8_evaluate.test.yaml").read_text())
    policies = stage["model"]["init_args"]["policies"]
    assert list(policies) == ["sft", "immediate", "rlff", "optimum"]
    trained = [policies[name]["init_args"] for name in ("sft", "immediate", "rlff")]
    for settings in trained:
        settings["engine"]["init_args"].pop("model_name_or_path")
    assert trained[0] == trained[1] == trained[2]


def test_the_demo_is_judged_by_a_second_judge_and_meets_people_whom_no_policy_was_trained_with():
    def agents(stage):
        verb = stage.split(".")[1]
        return resolve([verb, "--config", str(DEMO / stage)])["model"]["init_args"]

    trained, judged = agents("2_futures.predict.yaml"), agents("8_evaluate.test.yaml")
    held_out = judged["held_out"]["init_args"]
    assert judged["critic"]["class_path"] == trained["critic"]["class_path"]
    assert held_out["judge"]["class_path"] != trained["critic"]["class_path"]
    assert judged["seeker"] == trained["seeker"]
    assert held_out["seekers"]["worst_case"] != trained["seeker"]
