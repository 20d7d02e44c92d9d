"""What users get wrong about models and files: one line, exit status 2, nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlff_lightning.cli import main

WARM_START = """\
trainer: {accelerator: cpu, logger: false, max_steps: 1, default_root_dir: run}
model:
  class_path: rlff_lightning.modules.supervised.SupervisedModule
  init_args:
    pocket: {vocab_size: 300, hidden_size: 32, num_layers: 1, num_heads: 1}
data:
  class_path: rlff_lightning.data.replies.FileReplies
  init_args: {paths: [chats.jsonl], val_fraction: 0.5}
"""

POLICY = """\
trainer: {accelerator: cpu, logger: false, max_steps: 1, default_root_dir: run}
model:
  class_path: rlff_lightning.modules.policy.PolicyModule
  init_args:
    policy: {model_name_or_path: MODEL}
    engine:
      class_path: rlff_lightning.engines.vllm.VLLMEngine
      init_args: {model_name_or_path: MODEL, max_model_len: 256, kv_cache_gib: 0.03125}
    chat: {max_prompt_tokens: 200}
    contexts:
      class_path: rlff_lightning.rollout.contexts.LiveConversations
      init_args:
        seeker: {class_path: rlff_lightning.agents.scripted.seeker.ScriptedSeeker}
        critic: {class_path: rlff_lightning.agents.scripted.seeker.ScriptedCritic}
    scorers: SCORERS
    rollout: {prompts: 2, group_size: 2, max_tokens: 8}
"""
REWARD_TEST = """\
trainer: {accelerator: cpu, logger: false, default_root_dir: run}
model:
  class_path: rlff_lightning.modules.reward_model.RewardModule
  init_args: {backbone: {model_name_or_path: MODEL}}
data:
  class_path: rlff_lightning.data.labelled.JudgedDialogues
  init_args: {paths: [JUDGED], val_fraction: 0.0, test_fraction: 0.5}
"""
JUDGED = Path(__file__).parent / "fixtures" / "critic_answers.jsonl"
FORMAT = "[{class_path: rlff_lightning.rollout.scorers.FormatScorer}]"
REWARD = (
    "[{class_path: rlff_lightning.rollout.reward_scorer.RewardModelScorer, "
    "init_args: {folder: reward}}]"
)
# A package that cannot be found, as on a machine where it was never installed.
WITHOUT_VLLM = """\
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "vllm":
            raise ModuleNotFoundError(f"No module named {name!r}", name="vllm")
sys.meta_path.insert(0, Blocker())
from rlff_lightning.cli import main
sys.exit(main(sys.argv[1:]))
"""


def chat(*turns: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})


GOOD = chat(("user", "I feel sad."), ("assistant", "What happened?"), ("user", "My exam."))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLFF_DEBUG", raising=False)
    return tmp_path


def error_of(capfd: pytest.CaptureFixture[str], *words: str, verb: str = "fit") -> str:
    assert main([verb, "--config", "x.yaml", *words]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert not any("Traceback" in line for line in lines)
    assert lines[-1].startswith("rlff: error: ")
    # Not even the config: what stands in the folder stays that of the results beside it.
    assert not Path("run").exists()
    return lines[-1].removeprefix("rlff: error: ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "chats.jsonl"),
        ("", "chats.jsonl"),
        (f"{GOOD}\n{{oops\n", "chats.jsonl:2"),
        ('{"color": "red"}\n', "chats.jsonl"),
        (f"{GOOD}\n{chat(('user', 'hi'), ('stranger', 'ho'))}\n", "stranger"),
        (f"{GOOD}\n{chat(('assistant', 'anyone?'))}\n", "seeker"),
    ],
    ids=["missing", "empty", "no JSON", "unknown shape", "unknown speaker", "no seeker"],
)
def test_a_dialogue_file_that_cannot_be_used_is_named(
    content: str | None, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("x.yaml").write_text(WARM_START)
    if content is not None:
        Path("chats.jsonl").write_text(content)
    error = error_of(capfd)
    assert line in error
    assert "chats.jsonl" in error


def policy_config(model: Path | str, scorers: str = FORMAT) -> None:
    Path("x.yaml").write_text(POLICY.replace("MODEL", str(model)).replace("SCORERS", scorers))


def test_a_model_folder_without_weights_is_named(
    pocket_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pocket_folder, "model", ignore=shutil.ignore_patterns("*.safetensors"))
    policy_config("./model")
    error = error_of(capfd)
    assert error == "model: a model folder must hold weights (*.safetensors), found none"


def test_a_model_folder_that_is_missing_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    policy_config("./gone")
    assert error_of(capfd) == "./gone: no such model folder"


def test_a_checkpoint_that_is_damaged_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    Path("x.yaml").write_text(WARM_START)
    Path("chats.jsonl").write_text(f"{GOOD}\n{GOOD}\n")
    Path("cut.ckpt").write_bytes(b"PK\x03\x04 and no more")
    error = error_of(capfd, "--ckpt_path", "cut.ckpt")
    assert error == "ckpt_path: cut.ckpt is damaged or no checkpoint of PyTorch's format"


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--trainer.accelerator=foo", "invalid accelerator name: `accelerator='foo'`"),
        ("--model.init_args.learning_rate=-1", "learning_rate must be at least 0, got -1"),
    ],
)
def test_a_setting_that_libraries_refuse_is_one_line_too(
    option: str, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("x.yaml").write_text(WARM_START)
    assert line in error_of(capfd, option)


def test_a_reward_model_whose_head_was_never_trained_is_refused(
    pocket_folder: Path, reward_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(reward_folder, "reward")
    facts = json.loads(Path("reward/reward_head.json").read_text())
    Path("reward/reward_head.json").write_text(json.dumps({**facts, "is_trained": False}))
    policy_config(pocket_folder, REWARD)
    line = "reward: a reward model whose head was never trained cannot score"
    assert error_of(capfd) == line


def test_a_reward_model_that_was_not_given_cannot_be_tested(
    pocket_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = REWARD_TEST.replace("MODEL", str(pocket_folder)).replace("JUDGED", str(JUDGED))
    Path("x.yaml").write_text(config)
    error = error_of(capfd, verb="test")
    assert "a reward model whose head was never trained cannot be tested" in error
    assert not Path("run/quality.json").exists()


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("gamma=1.5", "JudgedDialogues.gamma must be in (0, 1], got 1.5"),
        ("look_ahead=0", "JudgedDialogues.look_ahead must be at least 1, got 0"),
        ("batch_size=0", "JudgedDialogues.batch_size must be at least 1, got 0"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_is_read(
    value: str, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("x.yaml").write_text(REWARD_TEST.replace("MODEL", "./gone").replace("JUDGED", "./gone"))
    assert error_of(capfd, f"--data.init_args.{value}", verb="test").endswith(line)


def test_a_language_model_is_no_reward_model(
    pocket_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pocket_folder, "reward")
    policy_config(pocket_folder, REWARD)
    assert error_of(capfd).startswith("reward: no reward model: must hold ")


def test_a_prompt_over_the_limit_is_told_before_anything_is_sampled(
    pocket_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    policy_config(pocket_folder)
    error = error_of(capfd, "--model.init_args.chat.max_prompt_tokens=5")
    assert "prompt must have at most max_prompt_tokens=5 tokens, got" in error


def test_a_machine_without_vllm_is_told_what_to_install(pocket_folder: Path) -> None:
    policy_config(pocket_folder)
    Path("without_vllm.py").write_text(WITHOUT_VLLM)
    command = [sys.executable, "without_vllm.py", "fit", "--config", "x.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "rlff: error: VLLMEngine needs vLLM, which is not installed; pip install"
    )
    assert "Traceback" not in done.stderr
    assert not Path("run/model").exists()
