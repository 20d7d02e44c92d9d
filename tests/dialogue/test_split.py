import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.dialogue.split import split_dialogues
from rlff_lightning.dialogue.turns import reply_contexts
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Dialogue, Message

FIXTURES = Path(__file__).parents[1] / "fixtures"


def dialogues(count: int) -> list[Dialogue]:
    said = (Message(role="seeker", text="Hi"),)
    return [Dialogue(id=f"d-{number}", messages=said) for number in range(count)]


def ids(parts: list[list[Dialogue]]) -> list[set[str]]:
    return [{dialogue.id for dialogue in part} for part in parts]


def test_sizes_follow_the_fractions() -> None:
    assert [len(part) for part in split_dialogues(dialogues(65), [0.8, 0.1, 0.1], 0)] == [52, 6, 7]
    assert [len(part) for part in split_dialogues(dialogues(65), [0.2] * 5, 0)] == [13] * 5


@given(st.integers(5, 40), st.integers(0, 2**31), st.randoms())
def test_a_split_is_a_partition_that_order_does_not_change(
    count: int, seed: int, shuffler: random.Random
) -> None:
    items = dialogues(count)
    parts = split_dialogues(items, [0.6, 0.4], seed)
    assert sorted(x for part in ids(parts) for x in part) == sorted(x.id for x in items)
    shuffler.shuffle(items)
    assert ids(split_dialogues(items, [0.6, 0.4], seed)) == ids(parts)


def test_another_seed_gives_another_split() -> None:
    items = dialogues(30)
    assert ids(split_dialogues(items, [0.5, 0.5], 0)) != ids(split_dialogues(items, [0.5, 0.5], 1))


def test_contexts_of_one_dialogue_stay_together() -> None:
    items = read_dialogues([FIXTURES / "esconv.json", FIXTURES / "critic_answers.jsonl"])
    contexts = [context for item in items for context, _ in reply_contexts(item)]
    one, other = split_dialogues(contexts, [0.5, 0.5], 3)
    assert not {c.source for c in one} & {c.source for c in other}
    expected = ids(split_dialogues(items, [0.5, 0.5], 3))
    assert [{c.source for c in one}, {c.source for c in other}] == expected


@pytest.mark.parametrize("fractions", [[0.5, 0.4], [1.2, -0.2], []])
def test_fractions_must_share_out_the_whole(fractions: list[float]) -> None:
    with pytest.raises(UserError, match="sum to 1"):
        split_dialogues(dialogues(10), fractions, 0)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(UserError, match="part 2"):
        split_dialogues(dialogues(3), [0.9, 0.1], 0)


def test_an_item_without_a_source_is_refused() -> None:
    context = Conversation(id="c", messages=(Message(role="seeker", text="Hi"),))
    with pytest.raises(UserError, match="source must name a dialogue"):
        split_dialogues([context], [1.0], 0)
