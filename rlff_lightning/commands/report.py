"""`rlff report`: a run as one HTML page that opens offline."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rlff_lightning.errors import UserError
from rlff_lightning.report.page import render
from rlff_lightning.report.run_folder import find_run

_DESCRIPTION = """\
Write a run as one HTML page: tables, curves, and every conversation to read.

RUN is the folder of a pipeline's run, of a study or of one stage. The page needs no network; it
shows what the stages wrote, and leaves out what they did not.
"""
_EPILOG = "example: rlff report runs/demo"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments after ``rlff report``; None takes the process's own.

    Returns:
        Exit status, 0.

    Raises:
        UserError: If an argument or a file of the run cannot be used.
    """
    options = _parser().parse_args(argv)
    if options.max_items < 1:
        raise UserError(f"--max-items must be at least 1, got {options.max_items}")
    run = find_run(Path(options.run))
    target = Path(options.output) if options.output else run.folder / "report.html"
    if not target.parent.is_dir():
        raise UserError(f"--output: {target.parent} must be a folder that exists")
    page = render(run, max_items=options.max_items)
    # A lone surrogate in a text has no bytes of its own.
    content = page.encode("utf-8", "replace")
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(content)
    part.replace(target)
    sys.stdout.write(f"wrote {target} ({len(content) / 1e6:.1f} MB)\n")
    return 0


class _ArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _ArgumentParser(
        prog="rlff report",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    parser.add_argument("--output", metavar="FILE", help="default: report.html in the run's folder")
    parser.add_argument(
        "--max-items",
        type=int,
        default=100,
        metavar="N",
        help="most conversations, contexts or groups of one policy or stage (default 100)",
    )
    return parser
