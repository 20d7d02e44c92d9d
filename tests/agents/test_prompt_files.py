from pathlib import Path

import pytest

from rlff_lightning.agents.critic_rule import PRESETS
from rlff_lightning.agents.prompt_files import PromptRole, copy_prompts, languages, load_prompt
from rlff_lightning.errors import UserError

LEVELS = ("low", "medium", "high")
TRAITS = ("engagement", "resistance", "expression", "disclosure")


def seeker_values(level: str = "medium", persona: str = "A tired nurse.") -> dict[str, object]:
    return {"persona": persona, **dict.fromkeys(TRAITS, level)}


def test_english_and_german_are_shipped() -> None:
    assert languages() == ["de", "en"]


@pytest.mark.parametrize("language", languages())
def test_every_knob_changes_the_seekers_prompt(language: str) -> None:
    prompt = load_prompt("seeker", language)
    for trait in TRAITS:
        texts = {prompt.block("system", {**seeker_values(), trait: level}) for level in LEVELS}
        assert len(texts) == 3


@pytest.mark.parametrize("language", languages())
def test_the_persona_is_told_and_left_out_where_there_is_none(language: str) -> None:
    prompt = load_prompt("seeker", language)
    assert "A tired nurse." in prompt.block("system", seeker_values())
    shorter = prompt.block("system", seeker_values(persona=""))
    assert "\n\n\n" not in shorter
    assert "None" not in shorter


@pytest.mark.parametrize("language", languages())
def test_the_critic_sees_every_message_in_order_and_every_option(language: str) -> None:
    messages = [{"role": "seeker", "text": "first"}, {"role": "supporter", "text": "second"}]
    options = PRESETS["default"].options
    text = load_prompt("critic", language).block("user", {"messages": messages, "options": options})
    assert text.index(": first\n") < text.index(": second\n") < text.index(options[0])
    assert all(f"- {option}" in text for option in options)


@pytest.mark.parametrize("language", languages())
@pytest.mark.parametrize("role", ["seeker", "supporter"])
def test_labels_hold_the_names_that_the_critics_transcript_teaches(
    role: PromptRole, language: str
) -> None:
    assert {"Seeker", "Supporter", "User", "Assistant"} <= set(load_prompt(role, language).labels())


def test_braces_in_a_persona_are_text() -> None:
    hostile = "{{ 7 * 7 }}{% raw %}"
    assert hostile in load_prompt("seeker").block("system", seeker_values(persona=hostile))


def test_a_changed_copy_is_used_and_has_another_hash(tmp_path: Path) -> None:
    written = copy_prompts(tmp_path / "mine")
    assert sorted(path.name for path in written) == [
        "critic.en.jinja",
        "judge.en.jinja",
        "seeker.en.jinja",
        "supporter.en.jinja",
    ]
    shipped = load_prompt("supporter")
    assert load_prompt("supporter", folder=str(tmp_path / "mine")).label == shipped.label
    file = tmp_path / "mine" / "supporter.en.jinja"
    file.write_text(file.read_text().replace("Hello?", "Anyone?"), encoding="utf-8")
    changed = load_prompt("supporter", folder=str(tmp_path / "mine"))
    assert changed.block("begin") == "Anyone?"
    assert changed.label != shipped.label
    # What a user has changed is never written over.
    assert copy_prompts(tmp_path / "mine") == []
    assert "Anyone?" in file.read_text()


def test_a_language_of_ones_own_needs_no_shipped_one(tmp_path: Path) -> None:
    text = "{% block system %}Écoute.{% endblock %}{% block begin %}Oui{% endblock %}"
    (tmp_path / "supporter.fr.jinja").write_text(
        text + "{% block labels %}{% endblock %}", encoding="utf-8"
    )
    prompt = load_prompt("supporter", "fr", str(tmp_path))
    assert (prompt.block("system"), prompt.labels()) == ("Écoute.", ())
    assert prompt.label.startswith("supporter.fr ")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{% block system %}", r"supporter\.en\.jinja:1: no jinja2 template"),
        ("Be kind.", "must have the blocks system, begin, labels"),
        (
            "{% block system %}{% endblock %}{% block begin %}{% endblock %}",
            "labels is missing",
        ),
    ],
)
def test_a_file_that_is_no_prompt_is_refused_with_its_name(
    tmp_path: Path, text: str, rule: str
) -> None:
    (tmp_path / "supporter.en.jinja").write_text(text)
    with pytest.raises(UserError, match=rule) as mistake:
        load_prompt("supporter", folder=str(tmp_path))
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize("expression", ["{{ age }}", "{{ ''.__class__.__mro__ }}", "{{ 1 / 0 }}"])
def test_a_prompt_can_use_no_unknown_value_and_reach_nothing_else(
    tmp_path: Path, expression: str
) -> None:
    blocks = "".join(f"{{% block {b} %}}{expression}{{% endblock %}}" for b in ("begin", "labels"))
    (tmp_path / "supporter.en.jinja").write_text(
        blocks + "{% block system %}" + expression + "{% endblock %}"
    )
    prompt = load_prompt("supporter", folder=str(tmp_path))
    with pytest.raises(UserError, match="block 'system'"):
        prompt.block("system")


def test_an_unknown_language_or_folder_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="language must be one of de, en, got 'xx'"):
        load_prompt("critic", "xx")
    with pytest.raises(UserError, match=r"critic\.en\.jinja: no prompt to be read"):
        load_prompt("critic", folder=str(tmp_path))
