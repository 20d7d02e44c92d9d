import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from rlff_lightning.dialogue.esc_eval import is_contaminated
from rlff_lightning.dialogue.read import (
    KNOWN_SHAPES,
    read_any,
    read_dialogues,
    read_role_cards,
)
from rlff_lightning.errors import UserError
from rlff_lightning.types import Dialogue, Message, RoleCard

FIXTURES = Path(__file__).parents[1] / "fixtures"
DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real data are not at hand")

SEEKER_LINE = '{"messages": [{"role": "user", "content": "Hi"}]}'


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_dialogues(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def texts(dialogue: Dialogue) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in dialogue.messages]


def test_esconv_is_read_with_survey_and_strategies() -> None:
    first, second = read_dialogues(FIXTURES / "esconv.json")
    assert (first.id, second.id) == ("esconv-1", "esconv-2")
    assert first.situation == "My shop may close and I run it alone."
    assert (first.problem, first.emotion) == ("job crisis", "anxiety")
    assert (first.initial_intensity, first.final_intensity) == (4, 2)
    assert (second.initial_intensity, second.final_intensity) == (3, None)
    assert first.messages[2] == Message(
        role="supporter",
        text="That sounds heavy. What worries you most?",
        strategy="Question",
    )
    assert not first.is_failed


def test_failed_esconv_has_other_speaker_names_and_is_failed() -> None:
    (dialogue,) = read_dialogues(FIXTURES / "failed_esconv.json")
    assert dialogue.is_failed
    assert [message.role for message in dialogue.messages] == ["seeker", "supporter", "seeker"]


def test_ppdpp_lines_are_read_with_strategies() -> None:
    first, second = read_dialogues(FIXTURES / "ppdpp.jsonl")
    assert (first.problem, second.emotion) == ("academic pressure", "shame")
    assert texts(second) == [
        ("seeker", "I put everything off."),
        ("supporter", "What is the smallest piece of it?"),
    ]
    assert first.messages[0].strategy == "Question"


def test_critic_answers_stay_with_their_seeker_message() -> None:
    first, _ = read_dialogues(FIXTURES / "critic_answers.jsonl")
    assert first.messages[2].critic_answers == ("No, she feels worse.", "No, she feels the same.")
    assert all(not m.critic_answers for m in first.messages if m.role == "supporter")


def test_extes_is_read_in_spite_of_its_quirks(caplog: pytest.LogCaptureFixture) -> None:
    regular, irregular = read_dialogues(FIXTURES / "extes.json")
    assert regular.problem == "Workplace stress"
    assert regular.situation == "Two people do the work of five."
    assert regular.messages[1].strategy == "Reflective Statements (RS)"
    assert regular.messages[3].strategy == ""
    assert texts(irregular) == [
        ("supporter", "What brings you here?"),
        ("seeker", "I moved and know nobody."),
        ("seeker", "Not one person."),
        ("supporter", "A new town can feel very quiet."),
        ("supporter", "Is there a choir nearby?"),
        ("seeker", "I do like to sing."),
    ]
    assert irregular.messages[3].strategy == "Emotional Validation"
    # A strategy without a reply, and a user who says nothing.
    assert "dropped 2 empty messages" in caplog.text


def test_an_extes_entry_with_both_sides_is_two_messages(tmp_path: Path) -> None:
    entry = {"User": "I am lost.", "AI Strategy": "Clarification", "AI": "Since when?"}
    path = written(tmp_path / "x.json", json.dumps([{"scene": "Work", "content": [entry]}]))
    assert read_dialogues(path)[0].messages == (
        Message(role="seeker", text="I am lost."),
        Message(role="supporter", text="Since when?", strategy="Clarification"),
    )


def test_chat_messages_take_their_id_or_get_one() -> None:
    first, second = read_dialogues(FIXTURES / "chat_messages.jsonl")
    assert (first.id, second.id) == ("chat_messages-1", "walk-7")
    assert texts(first)[0] == ("seeker", "I failed my driving test.")
    assert len(first.messages) == 3  # the system message is no part of the conversation
    assert (second.situation, second.problem) == ("The dog died.", "grief")
    assert second.messages[0].text == "The dog died on Sunday."
    assert second.messages[1].strategy == "Question"


def test_role_cards_are_read_with_fields_and_origin() -> None:
    baker, brother, teacher = read_role_cards(FIXTURES / "role_cards.json")
    assert baker.id == "11"
    assert dict(baker.fields) == {
        "age": "27",
        "gender": "female",
        "occupation": "baker",
        "problem": "She sleeps four hours a night and sees no way to change it: "
        "the bread will not wait.",
    }
    assert [name for name, _ in teacher.fields] == ["年龄", "性别", "职业", "问题"]
    assert [is_contaminated(card) for card in (baker, brother, teacher)] == [True, False, True]
    assert not is_contaminated(baker, trained_on=["ExTES"])


@pytest.mark.parametrize("fixture", sorted(FIXTURES.glob("*.json*")), ids=lambda path: path.name)
def test_every_fixture_is_recognised_under_a_name_that_says_nothing(
    fixture: Path, tmp_path: Path
) -> None:
    copy = written(tmp_path / "download", fixture.read_text(encoding="utf-8"))
    items = read_any(copy)
    assert items
    is_card = fixture.name == "role_cards.json"
    assert all(isinstance(item, RoleCard if is_card else Dialogue) for item in items)


def test_a_list_may_stand_in_lines_and_lines_in_a_list(tmp_path: Path) -> None:
    lines = (FIXTURES / "ppdpp.jsonl").read_text(encoding="utf-8")
    as_list = written(
        tmp_path / "ppdpp.txt", json.dumps([json.loads(x) for x in lines.split("\n")[:-1]])
    )
    assert read_dialogues(as_list) == read_dialogues(FIXTURES / "ppdpp.jsonl")
    entries = json.loads((FIXTURES / "esconv.json").read_text(encoding="utf-8"))
    as_lines = written(tmp_path / "esconv", "\n\n".join(map(json.dumps, entries)))
    assert read_dialogues(as_lines) == read_dialogues(FIXTURES / "esconv.json")


def test_one_object_over_several_lines_is_one_dialogue(tmp_path: Path) -> None:
    path = written(tmp_path / "one.json", json.dumps(json.loads(SEEKER_LINE), indent=2))
    assert len(read_dialogues(path)) == 1


def test_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{SEEKER_LINE}\r\n{SEEKER_LINE}\r\n".encode())
    assert [dialogue.id for dialogue in read_dialogues(path)] == ["windows-1", "windows-2"]


def test_line_separators_within_a_text_do_not_end_the_line(tmp_path: Path) -> None:
    text = "one\u2028two\x85three"
    entry = {"messages": [{"role": "user", "content": text}]}
    path = written(tmp_path / "separators.jsonl", json.dumps(entry, ensure_ascii=False))
    assert read_dialogues(path)[0].messages[0].text == text


def test_control_tokens_in_a_text_stay_text(tmp_path: Path) -> None:
    entry = {"messages": [{"role": "user", "content": "<|im_end|> <think>"}]}
    path = written(tmp_path / "control.jsonl", json.dumps(entry))
    assert read_dialogues(path)[0].messages[0].text == "<|im_end|> <think>"


def test_files_and_folders_are_read_together(tmp_path: Path) -> None:
    written(tmp_path / "b.jsonl", SEEKER_LINE)
    written(tmp_path / "a.jsonl", SEEKER_LINE)
    written(tmp_path / "README.md", "no dialogue")
    both = read_dialogues([tmp_path, FIXTURES / "esconv.json"])
    assert [dialogue.id for dialogue in both] == ["a-1", "b-1", "esconv-1", "esconv-2"]


def test_empty_messages_are_counted_once_per_file(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        first, _ = read_dialogues(FIXTURES / "esconv.json")
    assert first.messages[-1].text == "Not yet, but I could. Thank you."
    assert [record.getMessage() for record in caplog.records] == [
        f"{FIXTURES / 'esconv.json'}: dropped 1 empty messages"
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "nowhere.json")


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    assert "empty" in complaint(written(tmp_path / "empty.json", content))


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    assert "empty" in complaint(written(tmp_path / "empty.json", "[]"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "got none" in complaint(tmp_path)


def test_a_line_that_is_no_json_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path / "broken.jsonl", f"{SEEKER_LINE}\n\n{SEEKER_LINE[:-3]}\n")
    assert f"{path}:3: not valid JSON" in complaint(path)


def test_a_fault_in_a_list_is_named_by_its_line(tmp_path: Path) -> None:
    path = written(tmp_path / "broken.json", f"[\n{SEEKER_LINE},\n{{oops}}\n]")
    assert f"{path}:3: not valid JSON" in complaint(path)


def test_json_nested_without_end_is_refused(tmp_path: Path) -> None:
    assert "broken.json:1" in complaint(written(tmp_path / "broken.json", "[" * 100_000))


def test_a_number_longer_than_python_converts_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "broken.json", '{"emotion_intensity": ' + "9" * 5000 + "}")
    assert "broken.json:1: JSON holds a number of too many digits" in complaint(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes(b'[{"base": "caf\xe9"}]')
    assert "UTF-8" in complaint(path)


def test_entries_that_are_no_objects_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "numbers.json", "[3]")
    assert f"{path}: entry 1: must be a JSON object, got 3" in complaint(path)


def test_an_unknown_shape_gets_the_list_of_known_ones(tmp_path: Path) -> None:
    message = complaint(written(tmp_path / "x.jsonl", SEEKER_LINE + '\n{"prompt": "Hi"}'))
    assert "x.jsonl:2" in message
    assert "'prompt'" in message
    assert all(shape in message for shape in KNOWN_SHAPES)


@pytest.mark.parametrize(
    ("entry", "accepted"),
    [
        ({"dialog": [{"speaker": "coach", "content": "Hi"}]}, "seeker, supporter, speaker"),
        ({"dialog": [{"speaker": "coach", "text": "Hi"}]}, "usr, sys"),
        ({"messages": [{"role": "coach", "content": "Hi"}]}, "user, assistant"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "user, assistant"),
        ({"scene": "Work", "content": [{"coach": "Hi"}]}, "User, AI"),
    ],
)
def test_an_unknown_speaker_is_named_with_its_place(
    tmp_path: Path, entry: dict[str, object], accepted: str
) -> None:
    message = complaint(written(tmp_path / "x.jsonl", "\n" + json.dumps(entry)))
    assert "x.jsonl:2, message 1" in message
    assert "coach" in message or "tool" in message
    assert accepted in message


@pytest.mark.parametrize(
    "entry",
    [
        {"dialog": []},
        {"dialog": [{"speaker": "sys", "text": "Hi"}]},
        {"dialog": [{"speaker": "supporter", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "Hi"}]},
        {"scene": "Work", "content": [{"AI": "Hi"}]},
    ],
)
def test_a_dialogue_without_a_seeker_message_is_refused(
    tmp_path: Path, entry: dict[str, object]
) -> None:
    assert "must have a seeker message" in complaint(
        written(tmp_path / "x.json", json.dumps([entry]))
    )


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "user"}, "content"),
        ({"role": "user", "content": ["Hi"]}, "content"),
        ({"role": 3, "content": "Hi"}, "role"),
        ({"role": "user", "content": "Hi", "critic_answers": "better"}, "critic_answers"),
        ({"role": "user", "content": "\ud800"}, "content"),
    ],
)
def test_a_field_of_another_type_is_named(
    tmp_path: Path, message: dict[str, object], field: str
) -> None:
    found = complaint(written(tmp_path / "x.json", json.dumps([{"messages": [message]}])))
    assert f'entry 1, message 1: "{field}" must be' in found


def test_a_message_that_is_no_object_is_named(tmp_path: Path) -> None:
    found = complaint(written(tmp_path / "x.json", '[{"messages": ["Hi"]}]'))
    assert "entry 1, message 1: must be an object, got 'Hi'" in found


def test_an_intensity_that_is_no_number_is_named(tmp_path: Path) -> None:
    entries = json.loads((FIXTURES / "esconv.json").read_text(encoding="utf-8"))
    entries[0]["survey_score"]["seeker"]["initial_emotion_intensity"] = "high"
    found = complaint(written(tmp_path / "x.json", json.dumps(entries)))
    assert "\"initial_emotion_intensity\" must be a whole number, got 'high'" in found


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    one = written(tmp_path / "train" / "a.jsonl", SEEKER_LINE)
    two = written(tmp_path / "test" / "a.jsonl", SEEKER_LINE)
    with pytest.raises(UserError, match="id must be unique, got 'a-1' again"):
        read_dialogues([one, two])


def test_role_cards_and_dialogues_are_not_taken_for_each_other() -> None:
    assert "got a role card" in complaint(FIXTURES / "role_cards.json")
    with pytest.raises(UserError, match='must have a text "base"'):
        read_role_cards(FIXTURES / "ppdpp.jsonl")


@needs_data
def test_the_real_ppdpp_file_is_read_whole() -> None:
    dialogues = read_dialogues(DATA / "esconv" / "ppdpp-valid.jsonl")
    roles = Counter(message.role for dialogue in dialogues for message in dialogue.messages)
    assert len(dialogues) == 130
    assert roles == {"seeker": 1952, "supporter": 1772}
    strategies = Counter(m.strategy for d in dialogues for m in d.messages if m.strategy)
    assert len(strategies) == 8
    assert strategies["Question"] == 360


@needs_data
def test_the_real_failed_conversations_are_read_whole() -> None:
    dialogues = read_dialogues(DATA / "esconv" / "FailedESConv.json")
    roles = Counter(message.role for dialogue in dialogues for message in dialogue.messages)
    assert len(dialogues) == 196
    assert roles == {"seeker": 2853, "supporter": 2377}
    assert all(dialogue.is_failed for dialogue in dialogues)
    assert sum(dialogue.final_intensity is None for dialogue in dialogues) == 54
    assert sum(dialogue.initial_intensity == 5 for dialogue in dialogues) == 70


@needs_data
def test_the_real_critic_file_has_ten_answers_on_every_seeker_message() -> None:
    dialogues = read_dialogues(DATA / "esconv" / "dpdp-critic-65.jsonl")
    seekers = [m for d in dialogues for m in d.messages if m.role == "seeker"]
    assert (len(dialogues), len(seekers)) == (65, 1004)
    assert {len(message.critic_answers) for message in seekers} == {10}


@needs_data
def test_the_real_role_cards_are_mostly_contaminated() -> None:
    cards = read_role_cards(DATA / "esc_eval" / "card_high_en.json")
    assert len(cards) == 331
    assert sum(map(is_contaminated, cards)) == 228
    names = {tuple(name for name, _ in card.fields) for card in cards}
    assert names == {("age", "gender", "occupation", "problem")}
