"""Loads what `rlff export` found and writes it as one new folder."""

import json
import shutil
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any, Literal, get_args

from rlff_lightning.commands.export_card import write_card
from rlff_lightning.commands.export_source import Source
from rlff_lightning.dialogue.reward_format import read_reward_input, write_reward_input
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.export import (
    TrainedSampling,
    load_trained,
    write_adapter,
    write_generation_config,
    write_plain,
    write_reward,
)
from rlff_lightning.models.saving import new_folder
from rlff_lightning.rollout.settings import RolloutSettings
from rlff_lightning.strategies.checkpoint_files import read_weights

Dtype = Literal["float32", "bfloat16"]
PRECISION = "training_precision.json"
"""Beside an adapter: how its frozen base was held while it learned, which PEFT does not write."""
_ADAPTER = "adapter_config.json"


def write_export(source: Source, output: Path, *, is_merged: bool, dtype: Dtype | None) -> str:
    """Write the export; the folder appears whole or not at all.

    Args:
        source: What was found.
        output: Absolute path of a folder that does not exist or is empty.
        is_merged: Merge an adapter into its base.
        dtype: Of a merged or plain model; ``None`` keeps the one it was trained in.

    Returns:
        What was written, in words.

    Raises:
        UserError: If weights, base or tokenizer cannot be loaded.
    """
    weights = source.weights.absolute()
    base = _base(source, weights)
    with chdir(_start(source, base)), new_folder(output) as unfinished:
        if source.kind == "reward":
            what = _reward(weights, unfinished, base, is_merged=is_merged, dtype=dtype)
        else:
            what = _policy(source, weights, unfinished, base, is_merged=is_merged, dtype=dtype)
        write_card(source, unfinished, base=base, what=what)
    return what


def _policy(
    source: Source,
    weights: Path,
    folder: Path,
    base: str,
    *,
    is_merged: bool,
    dtype: Dtype | None,
) -> str:
    precision = _precision(source, weights)
    if source.kind == "adapter" and is_merged and precision is None:
        raise UserError(
            f"rlff export: {source.weights}: nothing tells what the adapter was trained on; write "
            f'{PRECISION} beside it, e.g. {{"quantize": "nf4", "dtype": "bfloat16"}}, quantize '
            "null for a base that was not in 4 bits"
        )
    backbone = _backbone(source, weights, precision or {})
    tokenizer = _tokenizer(backbone, base)
    model = backbone.build()
    if source.kind == "checkpoint":
        load_trained(model, read_weights(weights), origin=weights)
    is_adapter = hasattr(model, "peft_config")
    if is_adapter and not is_merged:
        _check_uncast(dtype)
        write_adapter(model, folder, base=_written_base(base))  # type: ignore[arg-type]
        if precision is not None:
            told = {"quantize": backbone.quantize, "dtype": backbone.dtype}
            (folder / PRECISION).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        what = "an adapter"
    else:
        write_plain(model, folder, dtype or backbone.dtype)
        what = "a merged model" if is_adapter else "a model"
    tokenizer.save_pretrained(folder)
    write_generation_config(model, tokenizer, folder, _sampling(source))
    return what


def _reward(weights: Path, folder: Path, base: str, *, is_merged: bool, dtype: Dtype | None) -> str:
    is_adapter = (weights / _ADAPTER).is_file()
    reads = read_reward_input(weights)
    if is_adapter and not is_merged:
        _check_uncast(dtype)
    if is_merged or dtype:
        write_reward(weights, folder, dtype=dtype or "float32")
        write_reward_input(reads, folder)
        return "a merged reward model" if is_adapter else "a reward model"
    shutil.copytree(weights, folder, dirs_exist_ok=True)
    if not is_adapter:
        return "a reward model"
    settings = _json(folder / _ADAPTER) | {"base_model_name_or_path": _written_base(base)}
    (folder / _ADAPTER).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return "a reward model's adapter and head"


def _check_uncast(dtype: Dtype | None) -> None:
    if dtype:
        raise UserError(
            f"rlff export: --dtype {dtype} casts merged weights, and an adapter stays as it is: "
            "add --merged, or leave --dtype out"
        )


def _precision(source: Source, weights: Path) -> dict[str, Any] | None:
    """Tell how training held the weights, by an export's own record or its stage's config."""
    file = weights / PRECISION
    if not file.is_file():
        settings = source.backbone
        kept = {name: settings[name] for name in ("quantize", "dtype") if settings.get(name)}
        return kept if settings else None
    found = _json(file)
    if found.get("quantize") not in (None, "nf4") or found.get("dtype") not in get_args(Dtype):
        raise UserError(
            f"{file}: quantize must be null or nf4, and dtype one of {', '.join(get_args(Dtype))}"
        )
    return {name: found[name] for name in ("quantize", "dtype") if found.get(name)}


def _backbone(source: Source, weights: Path, precision: Mapping[str, Any]) -> Backbone:
    """Describe the model as its stage loaded it; a checkpoint goes into what that stage built."""
    settings = source.backbone
    if source.kind != "checkpoint":
        return Backbone(str(weights), **(precision or _stored(weights)))
    if "modules.reward_model." in source.module:
        raise UserError(
            f"rlff export: {source.weights} is a reward model's checkpoint; export the folder that "
            "the stage wrote when it ended, or let fit go on from the checkpoint to its end"
        )
    if "model_name_or_path" not in settings:
        raise UserError(
            f"rlff export: {source.weights}: config.yaml of its stage must stand above it and name "
            "a pretrained model (policy or backbone); a model that was built from scratch is "
            "exported from the stage's model folder"
        )
    adapter = settings.get("adapter")
    return Backbone(
        settings["model_name_or_path"],
        adapter=LoraSettings(**adapter) if adapter else None,
        trust_remote_code=bool(settings.get("trust_remote_code")),
        **precision,
    )


def _stored(weights: Path) -> dict[str, Any]:
    """Take a plain model's own precision where no stage tells."""
    if not (weights / "config.json").is_file():
        return {}
    stored = _json(weights / "config.json")
    kind = stored.get("dtype") or stored.get("torch_dtype")
    return {"dtype": kind} if kind in ("float32", "bfloat16") else {}


def _base(source: Source, weights: Path) -> str:
    """Name the model below an adapter, or the one that training started from."""
    if (weights / _ADAPTER).is_file():
        return str(_json(weights / _ADAPTER)["base_model_name_or_path"])
    named = str(source.backbone.get("model_name_or_path", ""))
    inner = (source.run or Path()) / named / _ADAPTER
    if named and inner.is_file():
        return str(_json(inner)["base_model_name_or_path"])
    return named


def _start(source: Source, base: str) -> Path:
    """Stages run in their run's folder: relative names in configs start there."""
    named = [name for name in (base, str(source.backbone.get("model_name_or_path", ""))) if name]
    if source.run and any((source.run / name).is_dir() for name in named):
        return source.run
    return Path.cwd()


def _tokenizer(backbone: Backbone, base: str) -> Any:
    folder = Path(backbone.model_name_or_path)
    has_own = not folder.is_dir() or any(folder.glob("tokenizer*.json"))
    return (backbone if has_own or not base else Backbone(base)).tokenizer()


def _written_base(base: str) -> str:
    """Make a local base's path good from everywhere; a hub's name stays."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def _sampling(source: Source) -> TrainedSampling | None:
    rollout = source.arguments.get("rollout")
    if rollout is None and "modules.policy." not in source.module:
        return None
    given, left_out = rollout or {}, RolloutSettings()
    return TrainedSampling(
        temperature=float(given.get("temperature", left_out.temperature)),
        max_tokens=int(given.get("max_tokens", left_out.max_tokens)),
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: must be JSON: {error}") from error
    return content
