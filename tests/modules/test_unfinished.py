import inspect
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.agents.language_model import LanguageModelSupporter
from rlff_lightning.agents.language_model_critic import LanguageModelCritic
from rlff_lightning.agents.language_model_judge import LanguageModelJudge
from rlff_lightning.agents.language_model_seeker import LanguageModelSeeker, SeekerKnobs
from rlff_lightning.agents.prompt_files import copy_prompts
from rlff_lightning.agents.prompted_supporter import PromptedSupporter
from rlff_lightning.data.identity import WITHOUT_EFFECT
from rlff_lightning.dialogue.chat import ChatSettings
from rlff_lightning.engines.server import ServerChatModel
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.modules.unfinished import fingerprint

MODEL, OTHER = (ServerChatModel(name, "http://127.0.0.1:1/v1") for name in ("model", "other"))
CARDS = Path(__file__).parents[1] / "fixtures" / "role_cards.json"
SAMPLED = {"temperature": 0.3, "max_tokens": 9}
PROMPT = {"language": "de", "prompts": "own"}
CHANGES: list[tuple[type, Any, dict[str, Any]]] = [
    (
        LanguageModelSeeker,
        MODEL,
        {
            **SAMPLED,
            **PROMPT,
            "model": OTHER,
            "people": str(CARDS),
            "knobs": SeekerKnobs(resistance="high"),
        },
    ),
    (PromptedSupporter, MODEL, {**SAMPLED, **PROMPT, "model": OTHER}),
    (
        LanguageModelCritic,
        MODEL,
        {**PROMPT, "model": OTHER, "rule": "ppdpp", "reading": "choice", "max_tokens": 9},
    ),
    (
        LanguageModelJudge,
        MODEL,
        {**SAMPLED, **PROMPT, "model": OTHER, "reading": "samples"},
    ),
    (
        LanguageModelSupporter,
        TransformersEngine("model"),
        {
            **SAMPLED,
            "engine": TransformersEngine("other"),
            "chat": ChatSettings(system="Be brief."),
        },
    ),
]


@pytest.mark.parametrize(
    ("kind", "model", "changes"), CHANGES, ids=[row[0].__name__ for row in CHANGES]
)
def test_every_setting_that_changes_answers_changes_the_fingerprint(
    kind: type, model: Any, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in copy_prompts("own"):
        file.write_text(file.read_text() + "\n")
    known = inspect.signature(kind).parameters.keys() - WITHOUT_EFFECT
    assert changes.keys() == known
    first = next(iter(inspect.signature(kind).parameters))
    prints = [fingerprint(agent=kind(**{first: model}))]
    assert fingerprint(agent=kind(**{first: model})) == prints[0]
    prints += [
        fingerprint(agent=kind(**{first: model, name: value})) for name, value in changes.items()
    ]
    assert len(set(prints)) == len(prints)
