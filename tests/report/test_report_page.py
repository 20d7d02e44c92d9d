import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlff_lightning.errors import UserError
from rlff_lightning.report.figures import reward_by_length, success_by_turn
from rlff_lightning.report.items import read_items
from rlff_lightning.report.page import render
from rlff_lightning.report.run_folder import find_run


class Page(HTMLParser):
    """What a browser would find: scripts, addresses, ids and text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.data = ""
        self._is_data = False
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.handlers += [name for name in found if name.startswith("on")]
        self.addresses += [found[key] or "" for key in ("src", "href") if key in found]
        self.ids += [found["id"] or ""] if "id" in found else []
        if tag == "script":
            self.scripts.append(found)
            self._is_data = found.get("type") == "application/json"

    def handle_endtag(self, tag: str) -> None:
        self._is_data = self._is_data and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._is_data:
            self.data += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def page(small_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = small_run(tmp_path_factory.mktemp("page") / "run")
    return Page(render(find_run(folder), max_items=10))


def test_what_was_said_is_data_and_never_markup(page: Page) -> None:
    assert [script.get("type") for script in page.scripts] == ["application/json", None]
    assert page.handlers == []
    assert "</script><script>window.harmed" in json.loads(page.data)[0]["messages"][0]["text"]
    assert "scripted <b>judge</b>" in page.text


def test_the_page_asks_for_nothing_from_outside_and_names_nothing_twice(page: Page) -> None:
    assert all(address.startswith("#") for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    inside = {address[1:] for address in page.addresses if address != "#"}
    assert inside <= set(page.ids)


def test_every_part_of_a_run_is_on_the_page(page: Page) -> None:
    for words in (
        "Goal completion",
        "33.3 %",  # sft's success rate
        "16.7 to 46.7",  # and its interval
        "Goal reached within t turns",
        "How seekers fare, turn by turn",
        "rollout/reward",
        "train/other",
        "Reliability of the reward model",
        "Simulated reward against length",
        "Response quality: one reply to each of 1 contexts in 1 dialogues (95 %)",
        "10.0 (5.0 to 15.0)",  # BLEU-2
        "Strategies that replies follow",
        "75.0 %",
        "\u22120.125 (\u22120.500 to +0.250)",  # of the second judge's rate from the first's
        "kappa of turns",
        "1.25 to 1.75",
        "Judged by a judge of replies, abc",
        "rlff against human",
        "50.0 to 75.0",  # its win rate's interval
    ):
        assert words in page.text
    assert "train/never" not in page.text


def test_an_item_holds_what_can_be_read_of_it(page: Page) -> None:
    items: list[dict[str, Any]] = json.loads(page.data)
    kinds = [item["kind"] for item in items]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "conversation": 6,
        "futures": 1,
        "samples": 1,
        "replies": 1,
        "crisis": 1,
    }
    crisis = items[kinds.index("crisis")]
    assert crisis["situation"] == "The reply points to human help."
    assert [message["role"] for message in crisis["messages"]] == ["seeker", "supporter"]
    first = items[0]["messages"]
    # The opening message has no verdict; the next seeker's has the first.
    assert "value" not in first[0]
    assert (first[2]["outcome"], first[2]["value"]) == ("same", -0.5)
    assert first[1]["think"] == "explore"
    best, other = items[kinds.index("futures")]["branches"]
    assert (best["value"], other["value"]) == (0.75, -0.25)
    assert best["futures"][1]["messages"][0]["value"] == 0.5
    rated = items[kinds.index("replies")]["branches"]
    assert [reply["rewards"] for reply in rated] == [{"fluency": 4}, {}]
    sample = items[kinds.index("samples")]["branches"][1]
    assert (sample["text"], sample["think"], sample["label"]) == ("said 1", "plan 1", "cut off")


def test_policies_come_in_the_order_of_the_table(page: Page) -> None:
    groups = [item["group"] for item in json.loads(page.data) if item["kind"] == "conversation"]
    assert list(dict.fromkeys(groups)) == ["sft", "rlff"]


def test_a_conversation_says_why_it_was_broken_off(
    small_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = small_run(tmp_path / "run")
    file = folder / "evaluate" / "episodes" / "sft-1.jsonl"
    row = {**json.loads(file.read_text()), "failure": "critic: no answer"}
    file.write_text(json.dumps(row) + "\n")
    items = read_items(find_run(folder), max_items=10)
    found = {item["id"]: item.get("failure") for item in items if item["group"] == "sft"}
    assert found == {"person-0": None, "person-1": None, "person-2": "critic: no answer"}


def test_fewer_items_are_of_the_same_people_for_every_policy(
    small_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = find_run(small_run(tmp_path / "run"))
    items = [item for item in read_items(run, max_items=2) if item["kind"] == "conversation"]
    people = {
        policy: {item["id"] for item in items if item["group"] == policy}
        for policy in ("sft", "rlff")
    }
    assert len(items) == 4
    assert people["sft"] == people["rlff"]


def test_one_stage_alone_is_a_run(small_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    found = Page(render(find_run(folder / "evaluate"), max_items=1))
    assert "Goal completion" in found.text
    assert "rollout/reward" not in found.text


def test_every_judge_stands_with_its_hash(page: Page) -> None:
    assert "The second judge is another judge, 0a1b." in page.text


def test_a_policy_named_as_on_a_hub_is_read_from_its_folder(
    small_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = small_run(tmp_path / "run")
    (folder / "evaluate" / "episodes" / "org").mkdir()
    row = {"id": "a", "messages": [{"role": "seeker", "content": "Hello."}]}
    file = folder / "evaluate" / "episodes" / "org" / "model--worst-0.jsonl"
    file.write_text(json.dumps(row) + "\n")
    groups = {item["group"] for item in read_items(find_run(folder), max_items=10)}
    assert "org/model, worst" in groups


def test_a_study_has_its_table(tmp_path: Path) -> None:
    row = {"name": "K=2", "rate": 0.5, "rate_interval": [0.3, 0.7], "rates": [0.4, 0.6]}
    row |= {
        "turns": 4.5,
        "turns_interval": [4.25, 4.75],
        "difference": -0.25,
        "difference_interval": None,
        "p_episodes": 0.0001,
    }
    study = {"study": "Look-ahead", "judge": "scripted", "baseline": "K=0", "rows": [row]}
    (tmp_path / "study.json").write_text(json.dumps(study))
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "summary.json").write_text("{}")
    text = Page(render(find_run(tmp_path), max_items=1)).text
    assert "Study: Look-ahead" in text
    assert "30.0 to 70.0" in text
    assert "4.25 to 4.75" in text
    assert "\u22120.250" in text
    assert "< .001" in text


def test_a_studys_page_shows_every_arm_and_what_arms_share_once(
    small_run: Callable[..., Path], tmp_path: Path
) -> None:
    summaries = {}
    for arm in ("base", "other"):
        run = small_run(tmp_path / arm / "seed-4", text="Said.")
        for stage in run.iterdir():
            # The arms differ in their evaluation alone.
            name = f"{arm} {stage.name}" if stage.name == "evaluate" else stage.name
            (stage / "done.json").write_text(json.dumps({"fingerprint": name}))
        summaries[arm] = json.loads((run / "evaluate" / "summary.json").read_text())["policies"]
    cells = [
        {"arm": arm, "seed": 4, "figures": rows["rlff"], "references": {"sft": rows["sft"]}}
        for arm, rows in summaries.items()
    ]
    rows = [{"name": "base", "rate": 0.5, "rates": [0.5], "held_out": {"worst": 0.125}}]
    rows[0] |= {"held_out_intervals": {"worst": [0.05, 0.2]}}
    rows[0] |= {"agreement": {"worst/difference": -0.25, "worst/kappa_success": 0.5}}
    study = {"study": "toy", "judge": "scripted #1", "baseline": "base", "rows": rows}
    study["second_judge"] = "wording #2"
    # A second seed is in the table, and its folder is not read.
    study["cells"] = [*cells, {**cells[0], "seed": 5}]
    (tmp_path / "study.json").write_text(json.dumps(study))
    found = Page(render(find_run(tmp_path), max_items=10))
    for words in ("5.0 to 20.0", "base, worst", "\u22120.250", "second judge is wording #2"):
        assert words in found.text
    for words in ("Study: toy", "12.5 %", "Under seed 4, judged by scripted #1", "base: policy"):
        assert words in found.text
    assert "other: policy" not in found.text
    items = json.loads(found.data)
    groups = {item["group"] for item in items if item["kind"] == "conversation"}
    assert groups == {"base: sft", "base: rlff", "other: sft", "other: rlff"}
    assert sum(item["kind"] == "futures" for item in items) == 1


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", "{\n1", r"evaluate/summary.json:2: no JSON"),
        ("summary.json", "[]", r"evaluate/summary.json: must be a JSON object, got list"),
        ("metrics.csv", "step,a\n0,1\n1,x\n", r"evaluate/metrics.csv:3: a must be a number .*'x'"),
        ("episodes/sft-0.jsonl", "{}\n{", r"episodes/sft-0.jsonl:2: no JSON"),
        ("futures/part-0.parquet", "no", r"futures/part-0.parquet: no part that a report can read"),
        ("episodes/sft-0.jsonl", b'{}\n{"id": "\xff"}', r"sft-0.jsonl:2: no JSON: 'utf-8' codec"),
        ("metrics.csv", b"step,a\n0,\xff\n", r"evaluate/metrics.csv: no table .*'utf-8' codec"),
    ],
)
def test_a_damaged_file_is_named(
    small_run: Callable[..., Path], tmp_path: Path, file: str, content: str | bytes, message: str
) -> None:
    folder = small_run(tmp_path / "run")
    target = folder / "evaluate" / file
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message):
        render(find_run(folder), max_items=10)


@pytest.mark.parametrize("stage", ["futures/futures", "policy/completions"])
def test_a_damaged_part_is_named_wherever_the_damage_is(
    small_run: Callable[..., Path], tmp_path: Path, stage: str
) -> None:
    folder = small_run(tmp_path / "run")
    (part,) = (folder / stage).glob("*.parquet")
    whole, message = part.read_bytes(), f"{part.name}: no part that a report can read"
    # Its first page, and its footer; a page that can be read may hold text that is none.
    for damaged in (whole[:8] + bytes(9) + whole[17:], whole[:-30]):
        part.write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            render(find_run(folder), max_items=10)
    table = pq.read_table(io.BytesIO(whole))
    text = pa.array([b"\xff"] * table.num_rows).view(pa.string())
    pq.write_table(
        table.set_column(table.schema.get_field_index("context_id"), "context_id", text), part
    )
    with pytest.raises(UserError, match=f"{message}.*UTF8"):
        render(find_run(folder), max_items=10)
    pq.write_table(table.drop_columns("context_id"), part)
    with pytest.raises(UserError, match=f"{message}: without context_id"):
        render(find_run(folder), max_items=10)


def test_a_folder_without_a_stage_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a run must be a folder, found none"):
        find_run(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no stage wrote anything here .*metrics\.csv"):
        find_run(tmp_path)


def test_terms_of_a_reward_are_drawn_under_their_names() -> None:
    branch = {"text": "I hear you.", "rewards": {"format": 1.0, "futures": 0.25}}
    items = [{"kind": "samples", "group": "policy", "branches": [branch] * 3}]
    [chart] = reward_by_length(items)
    assert chart.title == "Reward in training against length, by term"
    for name in ("policy: format", "policy: futures"):
        assert name in chart.svg


def test_more_lines_than_colours_differ_by_dashes_and_are_named_below() -> None:
    def drawn(count: int) -> str:
        rows = {f"arm {number}": {"success_rate_at/1": number / 20} for number in range(count)}
        chart = success_by_turn(rows)
        assert chart is not None
        return str(chart.svg)

    few, many = drawn(6), drawn(13)
    few_height, many_height = (
        float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[1]) for svg in (few, many)
    )
    # Seven rows of two names, in points.
    assert many_height > few_height + 7 * 13
    lines = set(re.findall(r'style="fill: none; (stroke[^"]*)"', many))
    found = {line for line in lines if "--c" in line}
    assert len(found) == 13


def test_charts_follow_the_theme_of_the_page(
    small_run: Callable[..., Path], tmp_path: Path
) -> None:
    content = render(find_run(small_run(tmp_path / "run")), max_items=10)
    charts = re.findall(r"<svg.*?</svg>", content, flags=re.DOTALL)
    assert len(charts) == 7
    for chart in charts:
        assert "var(--ink)" in chart or "var(--soft)" in chart
        # Black, white and stand-ins would be wrong in one of the themes.
        assert not re.search(r"#(000000|ffffff|00[ac]\w{3})\b", chart)
