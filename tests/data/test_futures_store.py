from pathlib import Path

import pytest

from rlff_lightning.data.futures_store import MANIFEST, QUARANTINE, FuturesStore, Quarantined
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, LabelledReply, Message

IDENTITY = {"futures.look_ahead": 2, "seed": 0}


def replies(*texts: str) -> list[LabelledReply]:
    context = Conversation(id=texts[0], messages=(Message(role="seeker", text="hello"),))
    return [
        LabelledReply(
            context=context,
            reply=Message(role="supporter", text=text),
            value=0.0,
            standard_error=0.0,
        )
        for text in texts
    ]


def given_up(number: int, reason: str = "timed out") -> Quarantined:
    return Quarantined(number=number, context_id=f"c{number}", reason=reason)


@pytest.fixture
def store(tmp_path: Path) -> FuturesStore:
    found = FuturesStore(tmp_path / "futures")
    found.open(IDENTITY, 10)
    return found


def reopened(store: FuturesStore) -> FuturesStore:
    store.unlock()
    again = FuturesStore(store.folder)
    again.open(IDENTITY, 10)
    return again


def test_the_parts_alone_tell_what_is_done(store: FuturesStore) -> None:
    store.write(0, {4: replies("x", "y"), 0: []})
    store.write(1, {1: replies("z")}, [given_up(3)])
    again = reopened(store)
    assert again.finished() == {0, 1, 4}
    assert again.quarantined() == [given_up(3)]
    assert [reply.reply.text for reply in again.read({4, 1})] == ["z", "x", "y"]


def test_a_second_run_writes_over_nothing(store: FuturesStore) -> None:
    store.write(0, {0: replies("a")})
    store.write(0, {}, [given_up(1)])
    again = reopened(store)
    again.write(0, {2: replies("b")}, [given_up(3)])
    names = sorted(path.name for path in store.folder.glob("*part*"))
    assert names == [
        "_part-000-00001.quarantine.jsonl",
        "_part-000-00002.quarantine.jsonl",
        "part-000-00000.parquet",
        "part-000-00002.parquet",
    ]


def test_a_context_taken_up_again_leaves_the_quarantine(store: FuturesStore) -> None:
    store.write(0, {}, [given_up(1), given_up(2), given_up(3)])
    store.close()
    assert len((store.folder / QUARANTINE).read_text().splitlines()) == 3
    again = reopened(store)
    again.write(0, {2: replies("b")}, [given_up(3, "lost\u2028connection")])
    again.close()
    # 1 was not tried, 2 came through, 3 failed for another reason.
    expected = [given_up(1), given_up(3, "lost\u2028connection")]
    assert reopened(again).quarantined() == expected
    assert not list(store.folder.glob("_part-*"))


def test_a_kill_while_the_quarantine_is_gathered_loses_nothing(store: FuturesStore) -> None:
    store.write(0, {}, [given_up(1)])
    [piece] = store.folder.glob("_part-*")
    text = piece.read_text()
    store.close()
    piece.write_text(text)  # as if the process had died before it deleted the piece
    assert reopened(store).quarantined() == [given_up(1)]


def test_a_run_with_another_identity_is_refused_with_the_difference(store: FuturesStore) -> None:
    store.write(0, {0: replies("a")})
    store.unlock()
    with pytest.raises(UserError, match=r"begun by another run: futures.look_ahead was 2, is 3;"):
        FuturesStore(store.folder).open({**IDENTITY, "futures.look_ahead": 3}, 10)
    # The refusal lets go of the folder.
    FuturesStore(store.folder).open(IDENTITY, 10)


@pytest.mark.parametrize("has_quarantine", [False, True])
def test_a_run_that_came_to_nothing_may_be_begun_anew_with_another_identity(
    store: FuturesStore, has_quarantine: bool
) -> None:
    if has_quarantine:
        store.write(0, {}, [given_up(1)])
    store.unlock()
    other = {**IDENTITY, "critic.model": "spelled right"}
    if has_quarantine:
        with pytest.raises(UserError, match=r"critic\.model was left out"):
            FuturesStore(store.folder).open(other, 10)
        return
    FuturesStore(store.folder).open(other, 10)
    assert "spelled right" in (store.folder / MANIFEST).read_text()


def test_two_runs_do_not_write_at_once(store: FuturesStore) -> None:
    with pytest.raises(UserError, match="another run is writing there"):
        FuturesStore(store.folder).open(IDENTITY, 10)


def test_fewer_contexts_than_there_are_is_refused(store: FuturesStore) -> None:
    store.write(0, {6: replies("a")})
    store.unlock()
    with pytest.raises(UserError, match="holds 7 contexts, num_contexts is 6; ask for 7 or more"):
        FuturesStore(store.folder).open(IDENTITY, 6)
    FuturesStore(store.folder).open(IDENTITY, 7)


def test_parts_of_nobody_knows_whom_are_refused(store: FuturesStore) -> None:
    store.write(0, {0: replies("a")})
    (store.folder / MANIFEST).unlink()
    store.unlock()
    with pytest.raises(UserError, match=r"holds parts but no _manifest\.json"):
        FuturesStore(store.folder).open(IDENTITY, 10)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        (MANIFEST, "{", "_manifest.json: must be JSON with the key 'identity'"),
        (MANIFEST, "[]", "_manifest.json: must be JSON with the key 'identity'"),
        (MANIFEST, '{"identity": [1]}', "_manifest.json: must be JSON with the key 'identity'"),
        (QUARANTINE, '{"number": 1}\n', "_quarantine.jsonl:1: must be an object with number"),
        (QUARANTINE, "\n", "_quarantine.jsonl:1: must be an object with number"),
    ],
)
def test_a_damaged_file_is_refused_by_its_place(
    store: FuturesStore, name: str, text: str, line: str
) -> None:
    store.write(0, {0: replies("a")})
    (store.folder / name).write_text(text)
    with pytest.raises(UserError, match=line):
        reopened(store).quarantined()


def test_what_a_kill_left_half_written_goes(store: FuturesStore) -> None:
    torn = store.folder / ".part-000-00000.parquet.partial"
    torn.write_bytes(b"PAR1")
    assert reopened(store).finished() == set()
    assert not torn.exists()
