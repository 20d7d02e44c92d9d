"""Save models whole or not at all: written beside the target, then renamed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlff_lightning.models.sharding import gathered, unwrapped


def save_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    *,
    is_writer: bool = True,
) -> None:
    """Write the model and its tokenizer: safetensors, or the PEFT adapter alone.

    Args:
        model: A plain model or one with adapters; if it is sharded all processes call this
            together.
        tokenizer: Saved beside it; ``None`` saves none.
        folder: Replaced as a whole if it exists.
        is_writer: This process writes; another only helps to gather.
    """
    weights = gathered_model(model, keep=is_writer)
    if not is_writer:
        return
    with new_folder(folder) as unfinished:
        write_model(model, unfinished, weights)
        if tokenizer is not None:
            tokenizer.save_pretrained(unfinished)


def gathered_model(
    model: PreTrainedModel | PeftModel, *, keep: bool = True
) -> dict[str, Tensor] | None:
    """Gather what ``write_model`` writes of a sharded model; ``None`` for one that is whole."""
    only = ".lora_" if isinstance(unwrapped(model), PeftModel) else ""
    return gathered(model, only=only, keep=keep)


def write_model(
    model: PreTrainedModel | PeftModel, folder: Path, weights: dict[str, Tensor] | None = None
) -> None:
    """Write weights and configuration into an existing folder.

    Args:
        model: Plain or with adapters.
        folder: Exists.
        weights: What ``gathered_model`` gave.
    """
    model = unwrapped(model)
    if isinstance(model, PeftModel):
        # "auto" would ask the Hub whether the vocabulary grew; embeddings are not trained here.
        model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=weights)
    else:
        model.save_pretrained(folder, state_dict=weights)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty sibling folder that becomes ``folder`` when the block ends without error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        unfinished, replaced = scratch / "new", scratch / "old"
        unfinished.mkdir()
        yield unfinished
        if folder.exists():
            folder.rename(replaced)
        try:
            unfinished.rename(folder)
        except OSError:
            if replaced.exists():
                replaced.rename(folder)
            raise
    finally:
        shutil.rmtree(scratch)
