import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlff_lightning.data.scoring_rows import RowsToScore, read_rows
from rlff_lightning.data.store import read_parts
from rlff_lightning.errors import UserError

TOLD = [{"role": "user", "content": "I lost my job."}]
ROW = {"context": TOLD, "reply": "That is hard."}


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_shape_of_a_row_is_the_same_row(tmp_path: Path) -> None:
    said = [*TOLD, {"role": "assistant", "content": "That is hard."}]
    shapes = [
        ROW,
        {"context": json.dumps(TOLD), "reply": "That is hard."},
        {"messages": said},
        {"context": [{"role": "seeker", "text": "I lost my job."}], "reply": "That is hard."},
    ]
    rows = read_rows(lines(tmp_path / "rows.jsonl", *shapes))
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "rows.parquet")
    rows += read_rows(tmp_path / "rows.parquet")
    assert {row.context.messages for row in rows} == {rows[0].context.messages}
    assert {row.reply for row in rows} == {rows[0].reply}
    assert [row.number for row in rows] == [0, 1, 2, 3, 0]
    assert rows[1].context.id.endswith("rows.jsonl:2")
    assert rows[4].context.id.endswith("rows.parquet: row 1")


def test_futures_of_a_simulation_are_read_as_they_are(futures_folder: Path) -> None:
    for part in sorted(futures_folder.glob("*.parquet"))[:1]:
        found = read_rows(part)
        stored = read_parts(futures_folder)[: len(found)]
        assert [row.context.messages for row in found] == [r.context.messages for r in stored]
        assert [row.reply.text for row in found] == [r.reply.text for r in stored]


def test_a_rows_own_id_is_kept_and_its_place_stands_in_for_none(tmp_path: Path) -> None:
    rows = read_rows(lines(tmp_path / "rows.jsonl", ROW | {"id": 7}, ROW | {"id": "x"}, ROW))
    assert [row.id for row in rows] == ["7", "x", "2"]


def test_reasoning_is_text_unless_replies_are_a_policys_whole_output(tmp_path: Path) -> None:
    file = lines(tmp_path / "rows.jsonl", ROW | {"reply": "<think>ask</think>How so?"})
    assert read_rows(file)[0].reply.text == "<think>ask</think>How so?"
    assert read_rows(file, has_reasoning=True)[0].reply.text == "How so?"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"reply": "x"}, r'rows.jsonl:2: "messages" must be a list of messages, got nothing'),
        ({"context": TOLD}, r'rows.jsonl:2: "reply" must be text, got nothing'),
        ({"context": TOLD, "reply": 3}, r'rows.jsonl:2: "reply" must be text, got 3'),
        ({"context": "[", "reply": "x"}, r'rows.jsonl:2: "context" must be a list of messages, or'),
        ({"context": [], "reply": "x"}, r"rows.jsonl:2: a reply must follow a user's message"),
        ({"messages": TOLD}, r'rows.jsonl:2: "messages" must be a list that ends with an assist'),
        (
            {"context": [{"role": "bot", "content": "x"}], "reply": "x"},
            r"rows.jsonl:2, message 1: role must be one of",
        ),
        (
            {"context": [{"role": "user"}], "reply": "x"},
            r'rows.jsonl:2, message 1: "content" must be text',
        ),
        (
            {"context": [*TOLD, {"role": "assistant", "content": "x"}], "reply": "x"},
            r"rows.jsonl:2: a reply must follow a user's message",
        ),
    ],
)
def test_a_bad_row_is_one_line_that_says_where(
    row: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        read_rows(lines(tmp_path / "rows.jsonl", ROW, row))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_rows_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "damaged.parquet").write_text("no parquet")
    pq.write_table(pa.table({"reply": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    for name, complaint in {
        "missing.parquet": "no such file",
        "missing.jsonl": "no such file",
        "damaged.parquet": "no Parquet file that can be read",
        "empty.parquet": "must hold at least one row",
    }.items():
        with pytest.raises(UserError, match=complaint) as caught:
            read_rows(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_rows_that_were_scored_before_are_left_out(tmp_path: Path) -> None:
    data = RowsToScore(str(lines(tmp_path / "rows.jsonl", ROW, ROW, ROW)), batch_size=2)
    data.setup("predict")
    data.leave_out({0, 2})
    assert [[row.number for row in batch] for batch in data.predict_dataloader()] == [[1]]
    assert data.num_rows == 3
