"""`rlff chat RUN|MODEL`: talk to a policy in the terminal."""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rlff_lightning.errors import UserError

if TYPE_CHECKING:
    from rlff_lightning.commands.chat_session import ChatSession

_DESCRIPTION = """\
Talk to a policy. It replies word by word; its reasoning stays hidden unless asked for.

RUN|MODEL is a run's folder (its policy stage is taken, or --stage), the folder of a stage, a model
or a LoRA adapter, or a name on the Hugging Face Hub. Chat settings are taken from the stage's
config.yaml. In the chat: /reasoning shows or hides the reasoning, /lines lists help lines, /quit
or Ctrl-D ends, Ctrl-C stops a reply.
"""
NOTICE = """\
This is research software. It is no therapist and no substitute for one; what it says may be wrong
or harmful. It is run by a program on this machine. If you are in distress, talk to a person;
/lines lists help lines."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"rlff chat: {message}")


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` follows `rlff chat`.

    Returns:
        0 when the conversation ends.

    Raises:
        UserError: If an argument or the model cannot be used.
    """
    options = _parser().parse_args(list(argv))
    if options.max_tokens is not None and options.max_tokens < 1:
        raise UserError(f"rlff chat: --max-tokens must be at least 1, got {options.max_tokens}")
    if options.temperature != 0 and not 0.01 <= options.temperature <= 2:
        raise UserError(
            f"rlff chat: --temperature must be 0 or in [0.01, 2], got {options.temperature}"
        )
    # Seconds of imports: a wrong argument is told before.
    from rlff_lightning.commands.chat_policy import ChatPolicy, find_policy
    from rlff_lightning.commands.chat_session import ChatSession

    found = find_policy(options.model, options.stage)
    policy = ChatPolicy(
        found,
        temperature=options.temperature,
        max_tokens=options.max_tokens or found.max_tokens,
        seed=options.seed,
    )
    transcript = None if options.no_transcript else _transcript(options.transcript)
    session = ChatSession(
        policy,
        transcript,
        situation=options.situation,
        shows_reasoning=options.reasoning,
    )
    _say(NOTICE)
    _say(f"The conversation is saved in {transcript}." if transcript else "Nothing is saved.")
    _converse(session)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rlff chat",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="RUN|MODEL", help="who to talk to")
    parser.add_argument("--stage", help="stage of the run whose model replies (default: policy)")
    parser.add_argument("--reasoning", action="store_true", help="show the reasoning")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 is greedy, as in evaluation (default: 0)"
    )
    parser.add_argument("--max-tokens", type=int, help="limit of a reply with its reasoning")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--situation", default="", help="for a system prompt that asks for it")
    parser.add_argument(
        "--transcript", metavar="FILE", type=Path, help="default: chats/<date and time>.jsonl"
    )
    parser.add_argument("--no-transcript", action="store_true", help="save nothing")
    return parser


def _transcript(given: Path | None) -> Path:
    moment = datetime.now().astimezone().strftime("%Y%m%dT%H%M%S")
    path = given or Path("chats") / f"chat-{moment}.jsonl"
    if path.exists():
        raise UserError(f"rlff chat: --transcript: {path} exists already; name another file")
    try:
        # What people write here is nobody else's business.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"rlff chat: --transcript: {path}: {error.strerror}") from error
    return path


def _converse(session: "ChatSession") -> None:
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        import readline  # noqa: F401  -- its import makes `input` edit lines
    while True:
        try:
            line = input("\nyou> " if is_terminal else "").strip()
            # Where the locale is no UTF-8, other bytes come as half characters.
            line.encode()
        except (EOFError, KeyboardInterrupt):
            _say("")
            return
        except UnicodeError as error:
            raise UserError(f"rlff chat: input must be UTF-8 text: {error}") from error
        if line in {"/quit", "/exit"}:
            return
        if line:
            session.turn(line)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
