from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.data.identity import describe, difference, identity_of


def settings(model: Path, **changes: Any) -> dict[str, Any]:
    engine = {
        "class_path": "engines.Fast",
        "init_args": {"model_name_or_path": str(model), "max_num_seqs": 8, "seed": 0},
    }
    supporter = {"class_path": "agents.Speaker", "init_args": {"engine": engine, "language": "en"}}
    return {
        "supporter": supporter,
        "futures": {"look_ahead": 2},
        "num_contexts": 9,
        **changes,
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_an_identity_is_told_in_the_configs_own_keys_without_its_scaffold(model: Path) -> None:
    found = identity_of(settings(model))
    digest = found.pop("supporter.engine.model_name_or_path")
    assert digest.startswith("sha256:")
    assert found == {
        "supporter": "agents.Speaker",
        "supporter.engine": "engines.Fast",
        "supporter.engine.seed": 0,
        "supporter.language": "en",
        "futures.look_ahead": 2,
    }


def test_a_model_is_its_weights_wherever_they_lie(model: Path, tmp_path: Path) -> None:
    before = identity_of(settings(model))
    moved = model.rename(tmp_path / "elsewhere")
    assert identity_of(settings(moved)) == before
    (moved / "model.safetensors").write_bytes(b"Weights")
    changed = difference(before, identity_of(settings(moved)))
    assert changed.startswith('supporter.engine.model_name_or_path was "sha256:')


def test_a_word_that_happens_to_name_a_folder_stays_a_word(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = identity_of(settings(model))
    (tmp_path / "en").mkdir()
    assert identity_of(settings(model)) == before


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"num_contexts": 10}, ""),
        ({"futures": {"look_ahead": 3}}, "futures.look_ahead was 2, is 3"),
        ({"futures": {}}, "futures.look_ahead was 2, is left out"),
        ({"seed": 1, "a": None}, "a was left out, is null (and 1 more)"),
    ],
)
def test_a_difference_is_named_in_one_line(model: Path, changes: dict[str, Any], line: str) -> None:
    assert difference(identity_of(settings(model)), identity_of(settings(model, **changes))) == line


def test_a_text_too_long_for_a_path_is_no_path(model: Path) -> None:
    found = identity_of({"text": "x" * 900, "other": "a\0b"})
    assert found["other"] == "a\0b"
    assert len(found["text"]) < 100
    assert found != identity_of({"text": "x" * 899, "other": "a\0b"})


@dataclass(frozen=True)
class Knobs:
    resistance: float


class Agent:
    def __init__(self, resistance: float) -> None:
        self.knobs = Knobs(resistance)
        self.paths = [Path("a"), Path("b")]
        self._cache = object()


def test_an_object_is_described_by_its_class_and_public_attributes() -> None:
    name = f"{__name__}.Agent"
    found = identity_of({"seeker": describe(Agent(0.5))})
    assert found == {
        "seeker": name,
        "seeker.knobs": f"{__name__}.Knobs",
        "seeker.knobs.resistance": 0.5,
        "seeker.paths.0": "a",
        "seeker.paths.1": "b",
    }
