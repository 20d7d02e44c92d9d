"""Small models for the benchmarks: an untrained one, and one that ends its sentences."""

from pathlib import Path

from lightning.pytorch import Trainer

from rlff_lightning.agents.scripted.corpus import write_corpus
from rlff_lightning.data.replies import ScriptedReplies
from rlff_lightning.models.pocket import PocketSettings, build_pocket_model
from rlff_lightning.models.pocket_tokenizer import train_tokenizer
from rlff_lightning.modules.supervised import SupervisedModule


def build_pocket(folder: Path) -> None:
    """Write an untrained model with a tokenizer of the scripted corpus."""
    texts = [m.text for d in write_corpus(200, seed=0) for m in d.messages]
    tokenizer = train_tokenizer(texts, vocab_size=1024)
    tokenizer.save_pretrained(folder)
    model = build_pocket_model(
        len(tokenizer),
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        max_positions=4096,
    )
    model.save_pretrained(folder)


def train_pocket(folder: Path, num_steps: int, hidden_size: int = 128) -> Path:
    """Warm-start a model on the scripted corpus; its answers have lengths of their own.

    Returns:
        The model's folder, below the given one.
    """
    module = SupervisedModule(
        # vLLM on CPU computes attention only with heads of a multiple of 32.
        pocket=PocketSettings(
            hidden_size=hidden_size, num_heads=hidden_size // 32, max_positions=4096, seed=0
        ),
        learning_rate=5e-3,
        seeker_weight=0.2,
    )
    trainer = Trainer(
        default_root_dir=folder,
        max_steps=num_steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ScriptedReplies(num_dialogues=300, corpus_seed=0, batch_size=16))
    return folder / "model"
