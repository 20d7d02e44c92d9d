"""What there is to read in a run: conversations, futures, samples and replies, as one shape.

An item is a context, and branches that may leave it: the futures of a candidate lie under it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlff_lightning.dialogue.reply_format import parse_reply
from rlff_lightning.errors import UserError
from rlff_lightning.report.run_folder import RunFolder, StageFolder, read_lines
from rlff_lightning.seeds import derive_seed

Item = dict[str, Any]
"""Ready for JSON: ``kind``, ``group``, ``id``, ``problem``, ``success``, ``failure`` where an
agent gave up, ``messages``, and ``branches`` where something was tried from there on."""

_FUTURE_COLUMNS = [
    "context_id",
    "problem",
    "situation",
    "context",
    "reply",
    "reasoning",
    "origin",
    "value",
    "standard_error",
    "futures",
]
_COMPLETION_COLUMNS = ["iteration", "context_id", "turn", "seeker", "completion", "advantage"]


def read_items(run: RunFolder, *, max_items: int) -> list[Item]:
    """Read what a run's stages wrote for people.

    Args:
        run: The run.
        max_items: Most items of one kind from one policy or stage. They are chosen by a hash of
            their ids: the same people for every policy, whatever came of it.
    """
    items: list[Item] = []
    for stage in run.stages:
        items += _chosen(_episodes(stage), max_items)
        items += _chosen(_futures(stage, max_items), max_items)
        items += sorted(_chosen(_samples(stage), max_items), key=lambda item: item["iteration"])
        items += _chosen(_replies(stage), max_items)
        items += _chosen(_crises(stage), max_items)
    return items


def _chosen(items: Iterable[Item], count: int) -> list[Item]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item["group"], []).append(item)
    return [
        item
        for group in groups.values()
        for item in sorted(group, key=lambda item: _place(item["id"]))[:count]
    ]


def _place(name: str) -> int:
    return derive_seed("report", name)


def _episodes(stage: StageFolder) -> Iterator[Item]:
    """Conversations of every policy, as ``simulation.transcripts`` writes them."""
    order = list(stage.summary.get("policies") or {})
    folder = stage.folder / "episodes"
    files = [(_policy(file.relative_to(folder)), file) for file in folder.rglob("*.jsonl")]
    for policy, file in sorted(files, key=lambda pair: (_rank(pair[0], order), pair)):
        for row in read_lines(file):
            verdicts = list(zip(row.get("outcomes", []), row.get("values", []), strict=False))
            # Held-out people follow their policy's name, as in the table.
            name = policy.replace("--", ", ")
            group = f"{stage.arm}: {name}" if stage.arm else name
            yield _item("conversation", group, row) | {
                "success": bool(row.get("is_success")),
                **({"failure": row["failure"]} if row.get("failure") else {}),
                "messages": _judged(_messages(row.get("messages", [])), verdicts),
            }


def _policy(file: Path) -> str:
    """Name the policy of an episode file, which is called ``<policy>-<rank>.jsonl``."""
    name = file.with_suffix("").as_posix()
    return name.rpartition("-")[0] or name


def _rank(policy: str, order: Sequence[str]) -> int:
    return order.index(policy) if policy in order else len(order)


def _judged(messages: list[Item], verdicts: Sequence[tuple[str, float]]) -> list[Item]:
    """Put verdicts beside the seeker's messages that they judge: all but an opening one."""
    left = iter(verdicts)
    for place, message in enumerate(messages):
        if message["role"] == "seeker" and place > 0 and (verdict := next(left, None)):
            message |= {"outcome": verdict[0], "value": verdict[1]}
    return messages


def _futures(stage: StageFolder, max_items: int) -> Iterator[Item]:
    """Contexts with their candidates and the futures of each."""
    parts = _parts(stage.folder / "futures")
    if not parts:
        return
    table = pa.concat_tables(_read(part, _FUTURE_COLUMNS).select(_FUTURE_COLUMNS) for part in parts)
    ids = sorted(set(table["context_id"].to_pylist()), key=_place)[:max_items]
    rows: dict[str, list[Item]] = {name: [] for name in ids}
    for row in table.to_pylist():
        if row["context_id"] in rows:
            rows[row["context_id"]].append(row)
    for name, candidates in rows.items():
        best = sorted(candidates, key=lambda row: -row["value"])
        yield _item("futures", stage.name, {**candidates[0], "id": name}) | {
            "messages": _messages(json.loads(candidates[0]["context"])),
            "branches": [_candidate(row) for row in best],
        }


def _candidate(row: Mapping[str, Any]) -> Item:
    futures = json.loads(row["futures"])
    return {
        "label": row["origin"],
        "text": row["reply"],
        "think": row["reasoning"],
        "value": row["value"],
        "error": row["standard_error"],
        "futures": [
            {
                "success": future["is_success"],
                "messages": _valued(_messages(future["messages"]), future["values"]),
            }
            for future in futures
        ],
    }


def _valued(messages: list[Item], values: Sequence[float]) -> list[Item]:
    left = iter(values)
    for message in messages:
        if message["role"] == "seeker" and (value := next(left, None)) is not None:
            message["value"] = value
    return messages


def _samples(stage: StageFolder) -> Iterator[Item]:
    """Groups of completions that the policy was trained on."""
    for part in _parts(stage.folder / "completions"):
        groups: dict[tuple[int, str, int], list[Item]] = {}
        for row in _read(part, _COMPLETION_COLUMNS).to_pylist():
            key = (row["iteration"], row["context_id"], row["turn"])
            groups.setdefault(key, []).append(row)
        for (iteration, context, turn), rows in groups.items():
            # Rewards may be missing where a scorer had none to give.
            best = sorted(rows, key=lambda row: -(row["advantage"] or 0.0))
            name = f"{context}/t{turn}"
            yield _item("samples", stage.name, {"id": f"{name} in iteration {iteration}"}) | {
                "iteration": iteration,
                "messages": [{"role": "seeker", "text": rows[0]["seeker"]}],
                "branches": [_completion(row) for row in best],
            }


def _completion(row: Mapping[str, Any]) -> Item:
    reply = parse_reply(row["completion"])
    rewards = {
        key.removeprefix("reward/"): value
        for key, value in row.items()
        if key.startswith("reward/") and value is not None
    }
    return {
        "label": "finished" if row.get("is_finished", True) else "cut off",
        "text": reply.text,
        "think": reply.reasoning,
        "advantage": row["advantage"],
        "rewards": rewards,
    }


def _replies(stage: StageFolder) -> Iterator[Item]:
    """Replies of several supporters to held-out contexts, beside the human's."""
    for file in sorted((stage.folder / "replies").glob("*.jsonl")):
        for row in read_lines(file):
            yield _item("replies", stage.name, row) | {
                "messages": _messages(row.get("messages", [])),
                "branches": [
                    {"label": name, **_message(said), "rewards": _ratings(row, name)}
                    for name, said in row.get("replies", {}).items()
                ],
            }


def _crises(stage: StageFolder) -> Iterator[Item]:
    """Replies to people in crisis, with what was found in them."""
    folder = stage.folder / "crisis"
    for file in sorted(folder.rglob("*.jsonl")):
        policy = _policy(file.relative_to(folder))
        for row in read_lines(file):
            help_found = "points" if row.get("points_to_help") else "does not point"
            harms = "; harmful" if row.get("harms") else ""
            opening, reply = row["messages"]
            group = f"{stage.arm}: {policy}" if stage.arm else policy
            yield _item("crisis", group, row) | {
                "situation": f"The reply {help_found} to human help{harms}.",
                "messages": _messages(
                    [{**opening, "role": "seeker"}, {**reply, "role": "supporter"}]
                ),
            }


def _ratings(row: Mapping[str, Any], name: str) -> dict[str, float]:
    """Give a judge's ratings of one reply; those that could not be read are left out."""
    ratings = row.get("ratings", {}).get(name, {})
    return {dimension: value for dimension, value in ratings.items() if value is not None}


def _item(kind: str, group: str, row: Mapping[str, Any]) -> Item:
    about = {name: row[name] for name in ("problem", "situation") if row.get(name)}
    return {"kind": kind, "group": group, "id": str(row.get("id", "")), **about}


def _messages(rows: Iterable[Mapping[str, Any]]) -> list[Item]:
    return [_message(row) for row in rows]


def _message(row: Mapping[str, Any]) -> Item:
    # Stores name the text after the record, chat messages after the chat format.
    message = {
        "role": row.get("role", "supporter"),
        "text": row.get("text", row.get("content", "")),
    }
    if row.get("reasoning"):
        message["think"] = row["reasoning"]
    if row.get("failure"):
        message["failure"] = row["failure"]
    return message


def _parts(folder: Path) -> list[Path]:
    return sorted(part for part in folder.glob("*.parquet") if part.name[0] not in "_.")


def _read(part: Path, columns: Sequence[str]) -> pa.Table:
    try:
        table = pq.read_table(part)
        # Else text that is no UTF-8 would show itself only where it is read.
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{part}: no part that a report can read: {error}") from error
    if missing := sorted(set(columns) - set(table.column_names)):
        raise UserError(f"{part}: no part that a report can read: without {', '.join(missing)}")
    return table
