"""Conversations for people to read, and for the readers to read again."""

import json
from collections.abc import Sequence
from pathlib import Path

from rlff_lightning.types import Episode


def write_episodes(episodes: Sequence[Episode], path: Path) -> None:
    """Write episodes as chat-messages JSON lines with the verdict beside each seeker turn."""
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
        "messages": [
            {"role": message.role, "content": message.text}
            | ({"reasoning": message.reasoning} if message.reasoning else {})
            for message in conversation.messages
        ],
    }


def write_markdown(episodes: Sequence[Episode], path: Path, title: str) -> None:
    """Write episodes as readable Markdown: reasoning in italics, verdicts in brackets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", ""]
    for episode in episodes:
        end = "solved" if episode.is_success else "not solved"
        lines += [f"## {episode.conversation.id}: {end}", ""]
        verdicts = iter(episode.verdicts)
        for place, message in enumerate(episode.conversation.messages):
            thought = f"*({message.reasoning})* " if message.reasoning else ""
            verdict = ""
            if message.role == "seeker" and place > 0:
                judged = next(verdicts, None)
                verdict = f" [{judged.outcome}]" if judged else ""
            lines += [f"**{message.role}**: {thought}{message.text}{verdict}", ""]
    path.write_text("\n".join(lines), encoding="utf-8")
