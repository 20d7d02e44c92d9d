from pathlib import Path

import pytest

from rlff_lightning.cli import OTHER_VERBS, TRAINER_VERBS, main

CONFIG = """\
seed_everything: 3
trainer:
  accelerator: cpu
  max_steps: 2
  enable_model_summary: false
  limit_val_batches: 0
model:
  class_path: lightning.pytorch.demos.boring_classes.DemoModel
  init_args:
    learning_rate: 0.1
"""

FAULTY = """\
from dataclasses import dataclass
from torch.utils.data import DataLoader, Dataset
from lightning.pytorch.demos.boring_classes import BoringModel
from rlff_lightning.errors import UserError

@dataclass(kw_only=True)
class Limit:
    tokens: int = 1
    def __post_init__(self):
        if self.tokens < 1:
            raise UserError(f"Limit.tokens must be positive, got {self.tokens}")

class Rows(Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): raise UserError("rows.jsonl:7: no JSON")

class Model(BoringModel):
    def __init__(self, fault: str = "none", limit: Limit = Limit()):
        super().__init__()
        self.fault = fault
        if fault == "init": raise UserError("model/: no weights\\nin this folder")
    def training_step(self, batch, i):
        if self.fault == "step": raise UserError("prompt of 9 tokens is over the limit of 8")
        if self.fault == "interrupt": raise KeyboardInterrupt
        if self.fault == "bug": raise RuntimeError("a bug")
        return super().training_step(batch, i)
    def train_dataloader(self):
        if self.fault == "worker": return DataLoader(Rows(), num_workers=1)
        return super().train_dataloader()
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLFF_DEBUG", raising=False)
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "x.yaml"
    file.write_text(CONFIG)
    return file


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("rlff: error: ")]
    assert errors == lines[-1:], "one line, and the last"
    assert not any("Traceback" in line for line in lines)
    return errors[0].removeprefix("rlff: error: ")


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in [*TRAINER_VERBS, *OTHER_VERBS])


def test_unknown_verb_gets_the_closest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "pipelin") == "rlff has no verb 'pipelin'; did you mean pipeline?"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "learning_rate:",
            "learning_ratee:",
            "x.yaml:10: unknown key model.init_args.learning_ratee of DemoModel; "
            "did you mean learning_rate?",
        ),
        (
            "learning_rate:",
            "zz:",
            "x.yaml:10: unknown key model.init_args.zz of DemoModel; "
            "accepted are out_dim, learning_rate",
        ),
        ("0.1", "fast", "model.init_args.learning_rate: Expected a float. Got value: fast"),
        (
            "max_steps:",
            "max_stepz:",
            "x.yaml:4: unknown key trainer.max_stepz; did you mean trainer.max_steps?",
        ),
        ("trainer:", "trainr:", "x.yaml:2: unknown key trainr; did you mean trainer?"),
        ("max_steps: 2", "max_steps: two", "trainer.max_steps: Expected a int. Got value: two"),
        ("cpu", "[", "x.yaml: Problems parsing config: while parsing"),
        ("DemoModel", "DemoModl", "DemoModl"),
    ],
)
def test_a_mistake_in_a_config_is_told_by_file_line_and_key(
    old: str, new: str, line: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(CONFIG.replace(old, new))
    error = error_of(capsys, "fit", "--config", "x.yaml")
    assert line in error
    assert len(error) < 250
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--trainer.max_step=2"], "unknown key trainer.max_step; did you mean trainer.max_step"),
        (["--trainer.max_stepz=2"], "unknown key trainer.max_stepz; did you mean trainer.max_step"),
        (["--trainer.precision=fp17"], "trainer.precision: must be"),
        (["--model=gone.yaml"], "model: file gone.yaml is missing"),
        (["--config", "gone.yaml"], "config: File does not exist"),
        (["--ckpt_path=gone.ckpt"], "ckpt_path: gone.ckpt is missing; accepted are"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(
    words: list[str], line: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in error_of(capsys, "fit", "--config", "x.yaml", *words)


def test_an_empty_config_and_a_missing_model_are_told(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("")
    assert error_of(capsys, "fit", "--config", "x.yaml") == "x.yaml: the file is empty"
    assert "required: fit.model" in error_of(capsys, "fit")


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("init", "model/: no weights in this folder"),
        ("step", "prompt of 9 tokens is over the limit of 8"),
        ("worker", "rows.jsonl:7: no JSON"),
    ],
)
def test_a_user_error_from_anywhere_in_a_run_is_one_line(
    fault: str, line: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model=faulty.Model", f"--model.fault={fault}"]
    assert error_of(capsys, "fit", "--config", "x.yaml", *words) == line


def test_a_user_error_while_a_record_is_parsed_is_that_line(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model=faulty.Model", "--model.limit.tokens=0"]
    line = error_of(capsys, "fit", "--config", "x.yaml", *words)
    assert line == "Limit.tokens must be positive, got 0"


def test_debug_brings_the_traceback(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLFF_DEBUG", "1")
    with pytest.raises(ValueError, match="no verb"):
        main(["fitt"])


def test_a_bug_keeps_its_traceback(config: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        main(["fit", "--config", "x.yaml", "--model=faulty.Model", "--model.fault=bug"])


def test_ctrl_c_ends_with_130(config: Path) -> None:
    words = ["--model=faulty.Model", "--model.fault=interrupt"]
    assert main(["fit", "--config", "x.yaml", *words]) == 130


def test_a_run_needs_no_data_and_may_be_repeated_over_its_own_config(config: Path) -> None:
    words = ["fit", "--config", "x.yaml", "--model=lightning.pytorch.demos.BoringModel"]
    words.append("--trainer.logger=false")
    for seed in ("1", "2"):
        assert main([*words, f"--seed_everything={seed}"]) == 0
        assert f"seed_everything: {seed}" in Path("config.yaml").read_text()
