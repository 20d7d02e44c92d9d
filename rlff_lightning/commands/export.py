"""`rlff export RUN|CHECKPOINT|FOLDER --output DIR`: a trained model for other programs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rlff_lightning.commands.export_source import find_source
from rlff_lightning.errors import UserError

_DESCRIPTION = """\
Export a trained model: its adapter as a PEFT folder, or (--merged) one model without adapters as
safetensors, with tokenizer, chat template, generation config and a model card.

RUN is a run's folder (its policy is taken, or --stage), a stage's folder, a checkpoint (*.ckpt
beside its stage's config.yaml), or the folder of a model, an adapter or a reward model. An adapter
is merged out of place, in float32, and cast once; one that was trained on 4-bit weights is merged
into the weights that they stand for.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"rlff export: {message}")


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` follows `rlff export`.

    Returns:
        0.

    Raises:
        UserError: If there is nothing to export, or somewhere it must not be written.
    """
    options = _parser().parse_args(list(argv))
    source = find_source(options.source, options.stage)
    output = Path(options.output).expanduser().absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"rlff export: --output: {output} exists already; name another folder")
    # Seconds of imports: a wrong argument is told before.
    from rlff_lightning.commands.export_write import write_export

    what = write_export(source, output, is_merged=options.merged, dtype=options.dtype)
    sys.stdout.write(f"wrote {what} to {output}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rlff export",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="RUN|CHECKPOINT|FOLDER", help="what to export")
    parser.add_argument("--output", metavar="DIR", required=True, help="new folder to write")
    parser.add_argument("--stage", help="stage of the run (default: policy)")
    parser.add_argument("--merged", action="store_true", help="one model without adapters")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of a merged or plain model (default: as it was trained)",
    )
    return parser
