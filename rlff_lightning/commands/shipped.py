"""Where the configs that come with the package are."""

from pathlib import Path

import rlff_lightning
from rlff_lightning.errors import UserError


def config_folder() -> Path:
    """Find the shipped `configs/`: inside an installed wheel, or beside the package in a checkout.

    Raises:
        UserError: If the installation has neither.
    """
    package = Path(rlff_lightning.__file__).resolve().parent
    folders = (package / "_configs", package.parent / "configs")
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(f"configs/ is missing from this installation; looked for {folders[0]}")
