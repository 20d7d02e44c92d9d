"""Configs on top of a pipeline's: one for every stage, or a folder with one for some of them."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from rlff_lightning.commands.stages import Stage
from rlff_lightning.errors import UserError


def overlay_files(overlay: Path, stages: Sequence[Stage]) -> dict[str, list[Path]]:
    """Find what comes on top of each stage's config.

    Args:
        overlay: A file for all stages, or a folder of files ``<stage>.yaml``.
        stages: Of the pipeline.

    Returns:
        No file or one, by stage.

    Raises:
        UserError: If it is missing, or a file in the folder names no stage.
    """
    if overlay.is_file():
        return {stage.name: [overlay.absolute()] for stage in stages}
    if not overlay.is_dir():
        raise UserError(f"rlff pipeline: --overlay: {overlay} is missing")
    names = [stage.name for stage in stages]
    files = sorted(overlay.glob("*.yaml"))
    for file in files:
        if file.stem not in names:
            close = difflib.get_close_matches(file.stem, names, n=1)
            hint = f"did you mean {close[0]}.yaml?" if close else f"stages are {', '.join(names)}"
            raise UserError(f"rlff pipeline: --overlay: {file} names no stage; {hint}")
    if not files:
        raise UserError(f"rlff pipeline: --overlay: {overlay} holds no <stage>.yaml")
    return {name: [file.absolute() for file in files if file.stem == name] for name in names}
