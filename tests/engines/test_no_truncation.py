"""The law that training rollouts are drawn from the whole distribution: no top-p, no top-k."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.engines.base import Engine, Sampling
from rlff_lightning.engines.pool import ServerPoolEngine
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.engines.vllm import VLLMEngine

NARROW = {"do_sample": True, "top_k": 1, "top_p": 0.01, "temperature": 0.01, "min_p": 0.9}
"""What many published models ask for in kind; each of them leaves one token to draw."""


@pytest.fixture
def narrow_folder(model_folder: Path, tmp_path: Path) -> str:
    """The model, with narrow defaults for its sampling."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "narrow"))
    file = folder / "generation_config.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps({**known, **NARROW}))
    return str(folder)


@pytest.mark.parametrize("engine_class", [TransformersEngine, VLLMEngine])
def test_a_models_own_defaults_do_not_narrow_what_is_drawn(
    engine_class: Any, narrow_folder: str, settings: dict[str, Any], prompts: list[list[int]]
) -> None:
    own = settings if engine_class is VLLMEngine else {"max_model_len": 256}
    engine: Engine = engine_class(narrow_folder, **own)
    drawn = engine.generate([prompts[2]] * 200, Sampling(max_tokens=1), range(200))
    engine.close()
    assert len({completion.token_ids for completion in drawn}) > 20


def test_a_server_is_told_to_narrow_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        max_model_len = 256
        sent: list[Any]

        def send(self, jobs: list[Any], read: Any) -> list[Any]:
            self.sent = jobs
            return []

    session = Session()
    engine = ServerPoolEngine("model", ["http://127.0.0.1:1/v1"])
    monkeypatch.setattr(engine, "_session", lambda: session)
    engine.generate([[1, 2], [1, 2]], Sampling(temperature=0.7, max_tokens=4), [0, 1])
    assert len(session.sent) == 2
    for job in session.sent:
        body = {**job.body, **job.body["extra_body"]}
        narrowing = {"top_p", "top_k", "min_p", "repetition_penalty", "temperature"}
        found = {name: body[name] for name in sorted(narrowing)}
        assert found == {
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "temperature": 0.7,
            "top_k": 0,
            "top_p": 1.0,
        }
        assert (body["frequency_penalty"], body["presence_penalty"]) == (0.0, 0.0)
