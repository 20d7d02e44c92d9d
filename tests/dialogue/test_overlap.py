import dataclasses
import logging
from pathlib import Path

import pytest

from rlff_lightning.dialogue.overlap import fingerprint, read_unshared, without_shared
from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.dialogue.turns import merge_turns
from rlff_lightning.errors import UserError
from rlff_lightning.types import Dialogue, Message

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "esconv"
FIXTURES = Path(__file__).parents[1] / "fixtures"


def dialogue(*texts: str, id: str = "d") -> Dialogue:
    roles = ("seeker", "supporter")
    said = tuple(Message(role=roles[n % 2], text=text) for n, text in enumerate(texts))  # type: ignore[arg-type]
    return Dialogue(id=id, messages=said)


def test_a_fingerprint_is_every_run_of_words_over_the_borders_of_messages() -> None:
    found = fingerprint(dialogue("One, two!", "THREE four", "five"), run_length=3)
    assert found == {"one two three", "two three four", "three four five"}
    assert fingerprint(dialogue("one"), run_length=3) == {"one"}
    assert fingerprint(dialogue("..."), run_length=3) == frozenset()


def test_a_dialogue_is_shared_from_half_of_the_runs_of_the_shorter_on() -> None:
    words = [f"w{number}" for number in range(17)]
    whole = dialogue(" ".join(words))  # 17 - 8 + 1 = 10 runs
    # The first 12 words are 5 runs, 5 new words after them 5 more: 5 of 10 are common.
    half = dialogue(" ".join([*words[:12], *"abcde"]))
    assert without_shared([half], [whole]) == []
    # With the first 11 words 4 of 10 are.
    less = dialogue(" ".join([*words[:11], *"abcdef"]))
    assert without_shared([less], [whole]) == [less]
    # A part of a dialogue is shared with the whole, either way round.
    part = dialogue(" ".join(words[4:13]))
    assert without_shared([part], [whole]) == without_shared([whole], [part]) == []
    assert without_shared([whole, less], []) == [whole, less]


@pytest.mark.skipif(not DATA.is_dir(), reason="real data are not at hand")
def test_other_editions_of_real_dialogues_are_found_and_nothing_else_is() -> None:
    judged = read_dialogues(DATA / "dpdp-critic-65.jsonl")
    others = read_dialogues([DATA / "ppdpp-valid.jsonl", DATA / "FailedESConv.json"])
    assert without_shared(others, judged) == others
    editions = [
        dataclasses.replace(
            one, messages=tuple(dataclasses.replace(m, text=m.text.upper()) for m in messages)
        )
        for one in judged
        for messages in (one.messages, merge_turns(one.messages), one.messages[1:-2])
    ]
    assert without_shared([*others, *editions], judged) == others


def test_shared_dialogues_of_files_are_left_out_and_counted(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    lines = (FIXTURES / "critic_answers.jsonl").read_text().splitlines()
    both, one = tmp_path / "both.jsonl", tmp_path / "one.jsonl"
    both.write_text("\n".join(lines))
    one.write_text(lines[0])
    with caplog.at_level(logging.WARNING):
        kept = read_unshared([both], [one])
    assert [found.id for found in kept] == ["both-2"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{both}: left out 1 of 2 dialogues, for {one} holds them too"
    ]
    assert len(read_unshared([both])) == 2
    with pytest.raises(UserError, match=r"one.jsonl must hold other dialogues than .*both.jsonl"):
        read_unshared([one], [both])
