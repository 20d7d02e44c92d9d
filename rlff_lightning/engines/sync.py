"""New weights to the engine, and the proof that they arrived."""

import shutil
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rlff_lightning.engines.adapter_folder import drop_other_versions, version_folder
from rlff_lightning.engines.base import Engine
from rlff_lightning.engines.processes import wait_for_all
from rlff_lightning.engines.sync_change import ChangeProof, Scores
from rlff_lightning.errors import StoppedRun
from rlff_lightning.models.adapters import merged_weights
from rlff_lightning.models.sharding import gathered, named_whole_weights, unwrapped

AdapterSync = Literal["adapter", "merged"]
"""An adapter is served beside the engine's base weights, or merged into all weights."""


class StaleEngineError(StoppedRun):
    """An engine's log-probabilities are not the trainer's: it serves other weights."""


class Mismatch(NamedTuple):
    """How far two log-probabilities of the same tokens lie apart, in nats."""

    mean_abs: float
    """Mean over all probed tokens."""
    max_abs: float
    """Largest of all probed tokens."""
    engine: str = "the engine"
    """Which of a pool's engines."""


def sync_weights(
    model: nn.Module,
    engine: Engine,
    *,
    version: int,
    folder: Path,
    adapter: str = "default",
    how: AdapterSync = "adapter",
    is_writer: bool = True,
) -> None:
    """Serve the model's present weights: the adapter of a PEFT model, else all weights.

    Args:
        model: A transformers causal language model, or a PEFT model around one.
        engine: Takes the weights.
        version: Counts syncs; must grow.
        folder: Where adapter versions are written; the current one stays, older ones are deleted.
            Unused without an adapter.
        adapter: Name of the PEFT adapter to serve.
        how: What the engine gets of a PEFT model; ``merged`` takes all active adapters.
        is_writer: This process writes the adapter; of those that see the same ``folder``, one
            does, and all call together.
    """
    if not hasattr(model, "peft_config"):
        engine.load_weights(named_whole_weights(model))
        return
    if how == "merged":
        engine.load_weights(merged_weights(model))
        return
    weights = gathered(model, only=".lora_", keep=is_writer)
    if is_writer:
        _write_adapter(model, adapter, version_folder(folder, version), weights)
    wait_for_all()
    engine.load_adapter(version_folder(folder, version), version)
    wait_for_all()
    if is_writer:
        drop_other_versions(folder, version)


def probe(
    model: nn.Module,
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> Mismatch:
    """Compare both sides' log-probabilities of the same completion tokens.

    mean_abs = mean |log p_trainer(t) - log p_engine(t)|, at temperature 1

    Of several engines behind one, each is asked and the worst is given.

    Args:
        model: The trainer's model; computes without gradient and dropout.
        engine: The engine that should serve its weights.
        prompts: Token ids of each probe prompt.
        completions: Token ids of each probe completion, at least one token in all.

    Returns:
        The mismatch over all completion tokens, in nats.

    Raises:
        ValueError: If there is no token to compare.
    """
    return _worst(_scores(model, engine, prompts, completions))


def _scores(
    model: nn.Module,
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> Scores:
    # Past ``__setattr__``, which for all modules of a model with adapters takes milliseconds.
    in_training = [module for module in model.modules() if module.training]
    try:
        for module in in_training:
            vars(module)["training"] = False
        ours = _own_logps(model, prompts, completions)
    finally:
        for module in in_training:
            vars(module)["training"] = True
    if not len(ours):
        raise ValueError("probe must have a completion token, got none")
    rows_by_engine = engine.logps_by_engine(prompts, completions)
    return Scores(
        ours,
        {
            name: torch.tensor([logp for row in rows for logp in row])
            for name, rows in rows_by_engine.items()
        },
    )


def _worst(scores: Scores) -> Mismatch:
    found = []
    for name, theirs in scores.engines.items():
        gap = (scores.ours - theirs).abs()
        found.append(Mismatch(gap.mean().item(), gap.max().item(), name))
    # What is no number is worst of all.
    return max(found, key=lambda mismatch: (mismatch.mean_abs != mismatch.mean_abs, mismatch))


def verify_sync(
    model: nn.Module,
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    max_mismatch: float = 1e-4,
    change: ChangeProof | None = None,
) -> Mismatch:
    """Stop the run if an engine does not serve the trainer's weights.

    Args:
        model: The trainer's model.
        engine: The engine after a sync.
        prompts: Token ids of each probe prompt.
        completions: Token ids of each probe completion.
        max_mismatch: Largest mean difference that rounding explains, in nats: 1e-4 if both
            compute in float32; about 2e-2 in bfloat16, 5e-2 over a 4-bit base that the engine
            quantises by its own kernels.
        change: Has seen the scores of the same prompts and completions after earlier syncs, and
            notices stale weights whose difference is far below ``max_mismatch``.

    Returns:
        The mismatch, to be logged.

    Raises:
        StaleEngineError: If the mean difference is above ``max_mismatch`` or not a number, or an
            engine did not change as the trainer did.
    """
    scores = _scores(model, engine, prompts, completions)
    mismatch = _worst(scores)
    if not mismatch.mean_abs <= max_mismatch:
        raise StaleEngineError(
            f"{mismatch.engine}'s log-probabilities differ from the trainer's by "
            f"{mismatch.mean_abs:.3g} on average and {mismatch.max_abs:.3g} at most, "
            f"above max_mismatch {max_mismatch:g}: its weights are stale, or its "
            "precision is lower than the trainer's"
        )
    lag = change.lag(scores) if change is not None else None
    if lag is not None:
        raise StaleEngineError(
            f"{lag.engine}'s log-probabilities followed {lag.followed:.0%} of a change of "
            f"{lag.moved:.3g} that the trainer's have made: its weights are stale"
        )
    return mismatch


def _write_adapter(
    model: Any, adapter: str, target: Path, weights: dict[str, Tensor] | None
) -> None:
    unfinished = target.with_name(f"{target.name}.partial")
    for leftover in (unfinished, target):  # of a run that was killed
        if leftover.exists():
            shutil.rmtree(leftover)
    model.save_pretrained(
        unfinished,
        selected_adapters=[adapter],
        safe_serialization=True,
        save_embedding_layers=False,
        state_dict=weights,
    )
    # PEFT writes every adapter but the default one into a folder of its name.
    written = unfinished if adapter == "default" else unfinished / adapter
    written.replace(target)


@torch.no_grad()
def _own_logps(
    model: nn.Module, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> Tensor:
    """Score all completions in one pass: what pads a row comes after all that is read of it."""
    device = next(model.parameters()).device
    rows = [torch.tensor([*p, *c]) for p, c in zip(prompts, completions, strict=True)]
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
    reads = [
        range(len(p) - 1, len(p) + len(c) - 1) for p, c in zip(prompts, completions, strict=True)
    ]
    places = sorted({place for read in reads for place in read})
    logits = _logits_at(model, tokens, torch.tensor(places, dtype=torch.long, device=device))
    found = []
    for row, read in enumerate(reads):
        own = logits[row, [places.index(place) for place in read]]
        chosen = tokens[row, [place + 1 for place in read], None]
        found.append(own.float().log_softmax(-1).gather(1, chosen)[:, 0])
    return torch.cat(found).cpu()


def _logits_at(model: nn.Module, tokens: Tensor, places: Tensor) -> Tensor:
    """Logits of a few places: of all, a vocabulary of 150,000 fills gigabytes."""
    inner = unwrapped(model)
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # PEFT's
    if "logits_to_keep" in signature(base.forward).parameters:
        kept: Tensor = model(input_ids=tokens, logits_to_keep=places).logits
        return kept
    whole: Tensor = model(input_ids=tokens).logits
    return whole[:, places]
