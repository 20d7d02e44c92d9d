"""LoRA adapters on disk: where each version lies, and what an engine must find there."""

import json
import shutil
from pathlib import Path

from rlff_lightning.errors import UserError


def version_folder(folder: Path, version: int) -> Path:
    """Name the folder of one version, ``adapter-000007``."""
    return folder / f"adapter-{version:06d}"


def drop_other_versions(folder: Path, version: int) -> None:
    """Delete every version but one, and what a killed run left half-written."""
    kept = version_folder(folder, version)
    for other in folder.glob("adapter-*"):
        if other != kept:
            shutil.rmtree(other)


def base_and_adapter(model_name_or_path: str) -> tuple[str, Path | None]:
    """Tell a model from a folder that holds a LoRA adapter.

    Returns:
        The model itself and ``None``, or the adapter's base and the adapter's folder.
    """
    folder = Path(model_name_or_path)
    file = folder / "adapter_config.json"
    if not file.is_file():
        return model_name_or_path, None
    return json.loads(file.read_text())["base_model_name_or_path"], folder


def check_adapter_folder(folder: Path, max_rank: int | None = None) -> None:
    """Refuse a folder without a PEFT LoRA adapter in safetensors, or with too large a rank.

    Raises:
        UserError: If the adapter cannot be served.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"adapter folder must hold {name}, found none in {folder}")
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("peft_type") != "LORA":
        raise UserError(
            f"{folder / 'adapter_config.json'}: peft_type must be LORA, "
            f"got {config.get('peft_type')!r}"
        )
    if max_rank is None:
        return
    rank = max([config["r"], *config.get("rank_pattern", {}).values()])
    if rank > max_rank:
        raise UserError(
            f"{folder / 'adapter_config.json'}: r must be at most the engine's max_lora_rank "
            f"{max_rank}, got {rank}"
        )
