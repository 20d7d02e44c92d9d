"""Save models whole or not at all: written beside the target, then renamed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
) -> None:
    """Write the model and its tokenizer: safetensors, or the PEFT adapter alone.

    Args:
        model: A plain model or one with adapters.
        tokenizer: Saved beside it; ``None`` saves none.
        folder: Replaced as a whole if it exists.
    """
    with new_folder(folder) as unfinished:
        write_model(model, unfinished)
        if tokenizer is not None:
            tokenizer.save_pretrained(unfinished)


def write_model(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Write weights and configuration into an existing folder."""
    if isinstance(model, PeftModel):
        # "auto" would ask the Hub whether the vocabulary grew; embeddings are not trained here.
        model.save_pretrained(str(folder), save_embedding_layers=False)
    else:
        model.save_pretrained(folder)


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
