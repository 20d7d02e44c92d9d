from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.data.store import read_finished, read_parts, write_part
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Future, LabelledReply, Message

texts = st.text(st.characters(codec="utf-8"), max_size=12)
values = st.floats(-1, 1)
messages = st.builds(
    Message,
    role=st.sampled_from(["seeker", "supporter"]),
    text=texts,
    reasoning=texts,
    strategy=texts,
    critic_answers=st.lists(texts, max_size=2).map(tuple),
)
spoken = st.lists(messages, min_size=1, max_size=3).map(tuple)
records = st.builds(
    LabelledReply,
    context=st.builds(
        Conversation,
        id=texts,
        messages=spoken,
        situation=texts,
        problem=texts,
        persona=texts,
        source=texts,
        hidden=st.lists(st.integers(0, 9), max_size=6).map(tuple),
        seed=st.integers(0, 2**31 - 1),
    ),
    reply=st.builds(
        Message, role=st.just("supporter"), text=texts, reasoning=texts, strategy=texts
    ),
    value=values,
    standard_error=values,
    futures=st.lists(
        st.builds(
            Future,
            values=st.lists(values, min_size=1, max_size=3).map(tuple),
            is_success=st.booleans(),
            messages=spoken,
            is_cut=st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
    origin=st.sampled_from(["policy", "human", "scripted"]),
)


def reply(text: str) -> LabelledReply:
    return LabelledReply(
        context=Conversation(id=text, messages=(Message(role="seeker", text="hello"),)),
        reply=Message(role="supporter", text=text),
        value=0.0,
        standard_error=0.0,
    )


@given(st.lists(records, min_size=1, max_size=4))
def test_labelled_replies_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[LabelledReply]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    write_part(rows[:2], folder / "part-000-00000.parquet")
    write_part(rows[2:], folder / "part-000-00001.parquet")
    assert read_parts(folder) == rows
    assert len(list(folder.iterdir())) == 2


def test_rows_come_in_the_order_of_their_contexts_whatever_was_written_first(
    tmp_path: Path,
) -> None:
    rows = [reply(name) for name in ("c", "a1", "a2", "b")]
    write_part(rows[:1], tmp_path / "part-000-00000.parquet", [2], [2])
    write_part(rows[1:], tmp_path / "part-000-00001.parquet", [0, 0, 1], [0, 1, 3])
    assert [row.reply.text for row in read_parts(tmp_path)] == ["a1", "a2", "b", "c"]
    assert [row.reply.text for row in read_parts(tmp_path, {2, 1})] == ["b", "c"]
    # Context 3 is finished although none of its candidates had text.
    assert read_finished(tmp_path / "part-000-00001.parquet") == [0, 1, 3]


def test_a_part_that_is_not_whole_is_seen_by_no_reader(tmp_path: Path) -> None:
    write_part([reply("a")], tmp_path / "part-000-00000.parquet")
    (tmp_path / ".part-000-00001.parquet.partial").write_bytes(b"PAR1 torn")
    (tmp_path / "_manifest.json").write_text("{}")
    assert [row.reply.text for row in read_parts(tmp_path)] == ["a"]
    assert list(pd.read_parquet(tmp_path)["reply"]) == ["a"]


def test_the_store_opens_in_duckdb(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    write_part([reply("a"), reply("b")], tmp_path / "part-000-00000.parquet", [0, 1], [0, 1])
    write_part([reply("c")], tmp_path / "part-001-00000.parquet", [2], [2])
    (tmp_path / "_manifest.json").write_text("{}")
    query = f"select reply, origin from '{tmp_path}/*.parquet' order by context_number"
    assert duckdb.sql(query).fetchall() == [(text, "policy") for text in "abc"]


def test_a_folder_without_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold labelled replies"):
        read_parts(tmp_path / "futures")


def test_a_part_without_a_column_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"context_id": ["a"]}), tmp_path / "part-0.parquet")
    with pytest.raises(UserError, match=r"part-0\.parquet must have the column 'context_number'"):
        read_parts(tmp_path)


def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "part-0.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"part-0\.parquet: no Parquet file"):
        read_parts(tmp_path)


def test_a_part_with_damaged_bytes_is_refused_by_name(tmp_path: Path) -> None:
    part = tmp_path / "part-000-00000.parquet"
    write_part([reply("a"), reply("b")], part)
    whole = part.read_bytes()
    part.write_bytes(whole[:4] + b"\xff" * 60 + whole[64:])
    with pytest.raises(UserError, match=r"part-000-00000\.parquet: no Parquet file"):
        read_parts(tmp_path)
