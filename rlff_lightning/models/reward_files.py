"""Reward models on disk: trunk or adapter, head and label scale in one folder, without pickle."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.head_settings import HeadSettings
from rlff_lightning.models.saving import gathered_model, new_folder, write_model
from rlff_lightning.models.sharding import is_four_bit

_WEIGHTS, _SETTINGS = "reward_head.safetensors", "reward_head.json"
_KEYS = ("kind", "pooling", "class_values", "label_mean", "label_std", "is_trained", "quantize")


class RewardFiles(NamedTuple):
    """What a reward model is built from."""

    backbone: Backbone
    """How to load the trunk."""
    settings: HeadSettings
    """What the head predicts."""
    head: dict[str, Tensor]
    """The head's weights."""
    state: dict[str, Any]
    """Label scale and whether the head was trained."""


def write_reward_files(
    folder: Path,
    *,
    trunk: PreTrainedModel | PeftModel,
    head: dict[str, Tensor],
    settings: HeadSettings,
    state: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase | None,
    is_writer: bool = True,
) -> None:
    """Write trunk (or adapter alone), head and settings; all of it or nothing.

    All processes of a sharded model call this together, and one of them is the writer.
    """
    facts = {**asdict(settings), **state, "quantize": "nf4" if is_four_bit(trunk) else None}
    weights = gathered_model(trunk, keep=is_writer)
    if not is_writer:
        return
    with new_folder(folder) as unfinished:
        write_model(trunk, unfinished, weights)
        save_file(
            {name: weight.detach().float().cpu() for name, weight in head.items()},
            unfinished / _WEIGHTS,
        )
        (unfinished / _SETTINGS).write_text(json.dumps(facts, indent=2), encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(unfinished)


def read_reward_files(folder: Path, *, dtype: Literal["float32", "bfloat16"]) -> RewardFiles:
    """Read a trained head and its settings.

    Raises:
        UserError: If the folder holds no reward model, or one whose head was never trained.
    """
    file = folder / _SETTINGS
    if not file.is_file() or not (folder / _WEIGHTS).is_file():
        raise UserError(
            f"{folder}: no reward model: must hold {_SETTINGS} and {_WEIGHTS}, which the reward "
            "stage writes"
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: must be JSON: {error}") from error
    if not isinstance(found, dict) or not found.keys() >= set(_KEYS):
        raise UserError(f"{file}: must hold {', '.join(_KEYS)}")
    if found["is_trained"] is not True:
        raise UserError(f"{folder}: a reward model whose head was never trained cannot score")
    try:
        return _files(folder, found, dtype)
    except (SafetensorError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{folder}: the reward model is damaged: {error}") from error


def _files(
    folder: Path, found: dict[str, Any], dtype: Literal["float32", "bfloat16"]
) -> RewardFiles:
    return RewardFiles(
        backbone=Backbone(str(folder), quantize=found["quantize"], dtype=dtype),
        settings=HeadSettings(
            kind=found["kind"],
            reads=found.get("reads", "joined"),
            pooling=found["pooling"],
            layers=found.get("layers", 1),
            class_values=tuple(found["class_values"]),
            members=found.get("members", 1),
        ),
        head=load_file(folder / _WEIGHTS),
        state={
            "label_mean": float(found["label_mean"]),
            "label_std": float(found["label_std"]),
            "is_trained": True,
        },
    )
