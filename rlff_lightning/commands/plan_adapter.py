"""Reads what a folder with an adapter says of it, and of the model that it belongs to."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import LoraSettings


class WrittenAdapter(NamedTuple):
    """An adapter on disk."""

    base: str
    """Model that it was trained on."""
    adapter: LoraSettings
    """Its rank, scale and layers."""
    quantize: Literal["nf4"] | None
    """How a reward model's base was packed; others' configs say it themselves."""


def read_adapter(folder: Path) -> WrittenAdapter | None:
    """Read an adapter's settings without its weights.

    Returns:
        ``None`` if the folder holds no adapter.

    Raises:
        UserError: If its settings cannot be read.
    """
    file, reward = folder / "adapter_config.json", folder / "reward_head.json"
    if not file.is_file():
        return None
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
        head: Any = json.loads(reward.read_text(encoding="utf-8")) if reward.is_file() else {}
        return WrittenAdapter(
            base=str(Path(found["base_model_name_or_path"])),
            adapter=LoraSettings(
                rank=found["r"],
                alpha=found["lora_alpha"],
                dropout=found["lora_dropout"],
                target_modules=found["target_modules"],
            ),
            quantize=head.get("quantize"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: must be a LoRA adapter's settings with base_model_name_or_path, r, "
            f"lora_alpha, lora_dropout and target_modules: {type(error).__name__}: {error}"
        ) from error
