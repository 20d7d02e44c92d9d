"""Write a trained model so that other programs load it: a PEFT adapter, or one plain model.

An adapter is merged out of place, in float32, and cast once; what was loaded is never changed.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlff_lightning.errors import UserError
from rlff_lightning.models.adapters import merged_weights
from rlff_lightning.models.backbone import LanguageModel
from rlff_lightning.models.output_head import transformers_model
from rlff_lightning.models.reward_files import read_reward_files, write_reward_files

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_PREFIX = "model."


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedSampling:
    """How the policy's replies were drawn while it learned."""

    temperature: float
    """Of the rollouts."""
    max_tokens: int
    """Limit of a completion."""


def load_trained(model: LanguageModel, saved: Mapping[str, Tensor], *, origin: Path) -> None:
    """Put a checkpoint's weights into the model that they were trained in.

    Args:
        model: Built as the stage built it.
        saved: Weights by their names in the stage's module.
        origin: Where they were read, for messages.

    Raises:
        UserError: If they are another model's.
    """
    found = {name.removeprefix(_PREFIX): value for name, value in saved.items()}
    own = dict(model.named_parameters())
    # What stayed frozen is the base's own; an adapter's checkpoint need not hold it.
    wanted = {name for name, weight in own.items() if weight.requires_grad}
    missing = sorted(wanted - found.keys())
    shapes = [n for n in sorted(wanted & found.keys()) if own[n].shape != found[n].shape]
    if missing or shapes:
        name = (missing or shapes)[0]
        what = "lacks" if missing else "has another shape for"
        raise UserError(
            f"{origin}: must hold the weights of the model that config.yaml names, but {what} "
            f"{name}"
        )
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(found[name])


def plain_model(model: nn.Module, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Build a model without adapters around merged weights, for saving alone.

    Beside the loaded model only the merged weights exist: buffers stay without memory.

    Args:
        model: A plain, LoRA or QLoRA model.
        dtype: Of the result; by default as in ``merged_weights``.

    Returns:
        A model that can be saved, not called.
    """
    base = transformers_model(model)
    config = copy.deepcopy(base.config)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        shell: PreTrainedModel = type(base)(config)
    if getattr(base, "pooler", True) is None:  # an encoder's trunk has none
        setattr(shell, "pooler", None)  # noqa: B010
    weights = dict(merged_weights(model, dtype))
    if left_out := {name for name, _ in shell.named_parameters()} ^ weights.keys():
        raise RuntimeError(f"Merging left out {sorted(left_out)}")
    shell.load_state_dict(weights, strict=False, assign=True)
    shell.tie_weights()
    if shell.can_generate():
        shell.generation_config = copy.deepcopy(base.generation_config)
    return shell


def write_plain(model: nn.Module, folder: Path, dtype: str | None = None) -> None:
    """Write one model without adapters as safetensors into an existing folder.

    Args:
        model: A plain, LoRA or QLoRA model.
        folder: Exists.
        dtype: ``float32`` or ``bfloat16``; by default the base's own (float32 for a 4-bit one).
    """
    plain_model(model, _DTYPES[dtype] if dtype else None).save_pretrained(folder)


def write_adapter(model: PeftModel, folder: Path, *, base: str) -> None:
    """Write an adapter alone into an existing folder.

    Args:
        model: What was trained.
        folder: Exists.
        base: Name or path of the model that the adapter belongs to, as it is written.
    """
    # "auto" would ask the Hub whether the vocabulary grew; embeddings are not trained here.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    file = folder / "adapter_config.json"
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)


def write_reward(folder: Path, target: Path, *, dtype: Literal["float32", "bfloat16"]) -> None:
    """Write a trained reward model with its adapter merged; head and label scale stay.

    Args:
        folder: What the reward stage wrote.
        target: Replaced as a whole if it exists.
        dtype: Of the trunk's weights.

    Raises:
        UserError: If the folder holds no reward model, or one whose head was never trained.
    """
    files = read_reward_files(folder, dtype=dtype)
    write_reward_files(
        target,
        trunk=plain_model(files.backbone.build_trunk(), _DTYPES[dtype]),
        head=files.head,
        settings=files.settings,
        state=files.state,
        tokenizer=files.backbone.tokenizer(),
    )


def write_generation_config(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    sampling: TrainedSampling | None,
) -> None:
    """Write how to generate: it ends where the trainer ended, and draws as the trainer drew.

    A base model's own settings (top-p, top-k, a repetition penalty) are dropped where ``sampling``
    is given: the policy never sampled with them.

    Args:
        model: The loaded model.
        tokenizer: Its tokenizer, whose end-of-sequence token ended every reply.
        folder: Exists.
        sampling: How replies were drawn in training; ``None`` keeps the base's settings.
    """
    base = transformers_model(model).generation_config or GenerationConfig()
    own = base.eos_token_id if isinstance(base.eos_token_id, list) else [base.eos_token_id]
    ends = list(dict.fromkeys(i for i in (tokenizer.eos_token_id, *own) if i is not None))
    settings = copy.deepcopy(base)
    if sampling is not None:
        settings = GenerationConfig(
            do_sample=True,
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=0,
            max_new_tokens=sampling.max_tokens,
            bos_token_id=base.bos_token_id,
        )
    settings.eos_token_id = ends[0] if len(ends) == 1 else ends
    settings.pad_token_id = tokenizer.pad_token_id
    settings.save_pretrained(folder)
