"""Conversations for people to read, and for the readers to read again."""

import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rlff_lightning.types import Episode, LabelledReply, Message

_MARKUP = re.compile(r"[\\`*_<>\[\]#|~]")


def remove_rank_files(folder: Path) -> None:
    """Remove an earlier run's ``<name>-<rank>.jsonl`` and ``<rank>.jsonl``.

    A run on fewer processes writes fewer files, and would leave the others beside its own. A name
    such as a hub's, ``org/model``, makes a folder.
    """
    for file in folder.rglob("*.jsonl"):
        if file.stem.rpartition("-")[2].isdecimal():
            file.unlink()


def write_episodes(episodes: Sequence[Episode], path: Path) -> None:
    """Write episodes as chat-messages JSON lines with the verdict beside each seeker turn.

    ``failure`` says why an episode was broken off, and stands in its last message too if that
    one's speaker gave up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for episode in episodes:
            file.write(json.dumps(_row(episode), ensure_ascii=False) + "\n")


def _row(episode: Episode) -> dict[str, object]:
    conversation = episode.conversation
    return {
        "id": conversation.id,
        "situation": conversation.situation,
        "problem": conversation.problem,
        "is_success": episode.is_success,
        "outcomes": [verdict.outcome for verdict in episode.verdicts],
        "values": [verdict.value for verdict in episode.verdicts],
        **({"failure": episode.failure} if episode.failure else {}),
        "messages": [_said(message) for message in conversation.messages],
    }


def _said(message: Message) -> dict[str, str]:
    parts = {"reasoning": message.reasoning, "failure": message.failure}
    said = {"role": message.role, "content": message.text}
    return said | {name: part for name, part in parts.items() if part}


def write_markdown(episodes: Sequence[Episode], path: Path, title: str) -> None:
    """Write episodes as readable Markdown: reasoning in italics, verdicts in brackets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", ""]
    for episode in episodes:
        end = "solved" if episode.is_success else "not solved"
        if episode.failure:
            end += f", broken off: {_literal(episode.failure)}"
        lines += [f"## {_literal(episode.conversation.id)}: {end}", ""]
        verdicts = iter(episode.verdicts)
        for place, message in enumerate(episode.conversation.messages):
            judged = next(verdicts, None) if message.role == "seeker" and place > 0 else None
            lines += [_spoken(message, judged.outcome if judged else ""), ""]
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")


def write_futures(
    replies: Sequence[LabelledReply], path: Path, title: str, notes: Sequence[str] = ()
) -> None:
    """Write labelled replies as readable Markdown: each context, its candidates, their futures.

    Args:
        replies: Those of one context adjacent.
        path: The file.
        title: Its heading.
        notes: Lines below it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", "", *(f"- {_literal(note)}" for note in notes), ""]
    for context, own in groupby(replies, key=lambda reply: reply.context):
        lines += [f"## {_literal(context.id)}", ""]
        for message in context.messages:
            lines += [_spoken(message), ""]
        for number, reply in enumerate(own, start=1):
            value = f"{reply.value:+.2f} ± {reply.standard_error:.2f}"
            lines += [f"### Candidate {number} ({reply.origin}): {value}", ""]
            lines += [_spoken(reply.reply), ""]
            for place, future in enumerate(reply.futures, start=1):
                end = "solved" if future.is_success else "not solved"
                cut = ", cut at the conversation's last turn" if future.is_cut else ""
                lines += [f"Future {place}, {end}{cut}:", ""]
                values = iter(future.values)
                for message in future.messages:
                    value = f"{next(values):+.2f}" if message.role == "seeker" else ""
                    lines += [f"> {_spoken(message, value)}", ">"]
                lines[-1] = ""
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")


def _spoken(message: Message, verdict: str = "") -> str:
    thought = f"*({_literal(message.reasoning)})* " if message.reasoning else ""
    text = _literal(message.text)
    return f"**{message.role}**: {thought}{text}" + (f" [{verdict}]" if verdict else "")


def _literal(text: str) -> str:
    """Put a text on one line in which nothing is Markdown or HTML: a model may write both."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.splitlines()))
