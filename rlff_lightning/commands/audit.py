"""`rlff audit`: saved critic answers under one or all rules, without any model."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import NoReturn, get_args

from rich import box
from rich.console import Console
from rich.table import Table

from rlff_lightning.agents.critic_audit import RuleAudit, audit_rule
from rlff_lightning.agents.critic_parsers import Parser
from rlff_lightning.agents.critic_rule import PRESETS, CriticRule
from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.errors import UserError
from rlff_lightning.types import Dialogue

_DESCRIPTION = """\
Score saved critic answers: how often is the goal reached, under which rule?

One judge's answers give very different success rates under different rules. Each conversation
is judged turn by turn and ends at its first success; a failure counts as --max-turns turns.
Presets and parsers that are not named are all tried.
"""
_EPILOG = """\
FILE holds dialogues with a list of answers on the seeker's messages: the published critic files
of DPDP as they are ("state"), or chat messages ("critic_answers").

example: rlff audit --answers dpdp-critic-65.jsonl --preset ppdpp dpdp --parser negation-aware
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments after ``rlff audit``; None takes the process's own.

    Returns:
        Exit status, 0.

    Raises:
        UserError: If an argument or the file cannot be used.
    """
    options = _parser().parse_args(argv)
    courses, num_unjudged = _courses(options.answers)
    audits = [
        audit_rule(rule, courses)
        for rule in _rules(options.preset, options.parser, options.max_turns)
    ]
    if options.json:
        rows = [_row(audit, num_unjudged) for audit in audits]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        _print(audits, num_unjudged, options.max_turns)
    return 0


class _ArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _ArgumentParser(
        prog="rlff audit",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--answers", required=True, nargs="+", metavar="FILE", help="dialogues with critic answers"
    )
    parser.add_argument(
        "--preset", nargs="+", choices=list(PRESETS), metavar="RULE", help=", ".join(PRESETS)
    )
    parser.add_argument("--parser", choices=get_args(Parser), help="how an answer's words are read")
    parser.add_argument(
        "--max-turns", type=int, default=8, metavar="N", help="judged turns that count (default 8)"
    )
    parser.add_argument("--json", action="store_true", help="print a list, one object per rule")
    return parser


def _rules(
    presets: Sequence[str] | None, parser: Parser | None, max_turns: int
) -> list[CriticRule]:
    if max_turns < 1:
        raise UserError(f"--max-turns must be >= 1, got {max_turns}")
    return [
        dataclasses.replace(PRESETS[name], parser=reading, max_turns=max_turns)
        for name in (presets or PRESETS)
        for reading in ([parser] if parser else get_args(Parser))
    ]


def _courses(paths: list[str]) -> tuple[list[list[tuple[str, ...]]], int]:
    courses = [_course(dialogue) for dialogue in read_dialogues(paths)]
    judged = [course for course in courses if course]
    if not judged:
        raise UserError(
            f"{', '.join(paths)}: a dialogue must carry critic answers, got none among "
            f'{len(courses)} dialogues; expected a "state" or "critic_answers" list on the '
            "seeker's messages"
        )
    return judged, len(courses) - len(judged)


def _course(dialogue: Dialogue) -> list[tuple[str, ...]]:
    judged = [
        (number, message)
        for number, message in enumerate(dialogue.messages, start=1)
        if message.critic_answers
    ]
    for number, message in judged:
        if message.role != "seeker":
            raise UserError(
                f"{dialogue.id}: critic answers must stand on the seeker's messages, which they "
                f"judge, got some on message {number}, the {message.role}'s"
            )
    return [message.critic_answers for _, message in judged]


def _row(audit: RuleAudit, num_unjudged: int) -> dict[str, object]:
    rule = audit.rule
    return {
        "preset": rule.name,
        "parser": rule.parser,
        "success_rate": audit.success_rate,
        "ci95": list(audit.interval),
        "average_turns": audit.average_turns,
        "average_turns_low": audit.turns_interval and audit.turns_interval.low,
        "average_turns_high": audit.turns_interval and audit.turns_interval.high,
        "episodes": audit.episodes,
        "successes": audit.successes,
        "mean_value": audit.mean_value,
        "outcome_shares": audit.outcome_shares,
        "unparsed_share": audit.outcome_shares["unparsed"],
        "ties": dataclasses.asdict(audit.ties),
        "warnings": _warnings(audit),
        "unjudged_dialogues": num_unjudged,
        "rule": {**dataclasses.asdict(rule), "digest": rule.digest},
    }


def _warnings(audit: RuleAudit) -> list[str]:
    ties = audit.ties
    if not ties.episodes:
        return []
    return [
        f"{ties.episodes} of {audit.episodes} verdicts hang on a tie at {audit.rule.threshold:g}: "
        f"success rate {_share(ties.success_rate_if_failure)} if a tie fails, "
        f"{_share(ties.success_rate_if_success)} if it succeeds"
    ]


def _print(audits: Sequence[RuleAudit], num_unjudged: int, max_turns: int) -> None:
    console = Console(highlight=False)
    console.print(_rates(audits, max_turns))
    console.print(_histogram(audits, max_turns))
    tied = [audit for audit in audits if audit.ties.episodes]
    if tied:
        console.print("[yellow]Warning:[/yellow] the verdict hangs on a tie under these rules:")
    for audit in tied:
        for warning in _warnings(audit):
            console.print(f"  {audit.rule.name} ({audit.rule.parser}): {warning}", soft_wrap=True)
    if num_unjudged:
        console.print(f"Left out: {num_unjudged} dialogues without critic answers.")


def _rates(audits: Sequence[RuleAudit], max_turns: int) -> Table:
    table = Table(
        title=f"Goal completion of {audits[0].episodes} conversations, first {max_turns} turns",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("rule", "parser", "success if mean"):
        table.add_column(name, no_wrap=True)
    for name in ("SR", "95 % interval", "AT"):
        table.add_column(name, justify="right", no_wrap=True)
    for audit in audits:
        rule = audit.rule
        table.add_row(
            rule.name,
            rule.parser,
            f"{rule.comparator} {rule.threshold:g}",
            _share(audit.success_rate),
            f"{_share(audit.interval.low)}-{_share(audit.interval.high)}",
            f"{audit.average_turns:.2f}",
        )
    return table


def _histogram(audits: Sequence[RuleAudit], max_turns: int) -> Table:
    """Answers by outcome: the parser alone decides, so one row for each."""
    table = Table(
        title=f"Answers on the first {max_turns} turns", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("parser", no_wrap=True)
    by_parser = {audit.rule.parser: audit.outcome_shares for audit in audits}
    for outcome in audits[0].outcome_shares:
        table.add_column(outcome, justify="right", no_wrap=True)
    for parser, shares in by_parser.items():
        table.add_row(parser, *(_share(share) for share in shares.values()))
    return table


def _share(value: float) -> str:
    """Three decimals without the leading zero, as tables of rates have them."""
    return f"{value:.3f}".removeprefix("0")
