"""What a reward model has to beat: the training mean, and a linear model on words."""

from collections.abc import Sequence

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from torch import Tensor

from rlff_lightning.metrics.reward import RewardQuality
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import LabelledReply

_CONTEXT_MESSAGES = 6


def mean_baseline(
    train: Sequence[LabelledReply], held_out: Sequence[LabelledReply]
) -> dict[str, float]:
    """Predict the mean training label for every reply."""
    mean = sum(record.value for record in train) / len(train)
    return {"mse": _quality(held_out, torch.full((len(held_out),), mean))["mse"]}


def tfidf_ridge(
    train: Sequence[LabelledReply], held_out: Sequence[LabelledReply]
) -> dict[str, float]:
    """Ridge regression on TF-IDF of one- and two-word terms of context and reply."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        RidgeCV(alphas=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0)),
    )
    model.fit([_text(record) for record in train], [record.value for record in train])
    scores = model.predict([_text(record) for record in held_out])
    return _quality(held_out, torch.as_tensor(scores))


def _text(record: LabelledReply) -> str:
    # Words of the reply are other features than the same words of the context.
    said = " ".join(m.text for m in record.context.messages[-_CONTEXT_MESSAGES:])
    reply = " ".join(f"reply_{word}" for word in record.reply.text.split())
    return f"{said} {reply}"


def _quality(held_out: Sequence[LabelledReply], scores: Tensor) -> dict[str, float]:
    quality = RewardQuality()
    quality.update(
        scores,
        torch.tensor([record.value for record in held_out]),
        torch.tensor([record.standard_error for record in held_out]),
        torch.tensor([derive_seed(record.context.id) for record in held_out]),
    )
    return quality.compute()
