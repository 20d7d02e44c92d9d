"""What a reward model has to beat: the training mean, the turn's number, a linear text model."""

from collections.abc import Sequence

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from torch import Tensor

from rlff_lightning.types import LabelledReply

_CONTEXT_MESSAGES = 6
_FEW = 50


def training_mean(train: Sequence[LabelledReply], held_out: Sequence[LabelledReply]) -> Tensor:
    """Predict the mean training label for every held-out reply, ``(B,)``."""
    mean = sum(record.value for record in train) / len(train)
    return torch.full((len(held_out),), mean)


def turn_number(train: Sequence[LabelledReply], held_out: Sequence[LabelledReply]) -> Tensor:
    """Fit a line on the number of earlier supporter messages shown; ``(B,)``.

    Late in a dialogue people feel better, whatever the reply: a reward model must know more.
    """
    model = LinearRegression()
    model.fit([[_turn(record)] for record in train], [record.value for record in train])
    return torch.as_tensor(model.predict([[_turn(record)] for record in held_out]))


def tfidf_ridge(train: Sequence[LabelledReply], held_out: Sequence[LabelledReply]) -> Tensor:
    """Ridge regression on TF-IDF of one- and two-word terms of context and reply, ``(B,)``."""
    min_df = 2 if len(train) >= _FEW else 1
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=min_df, sublinear_tf=True),
        RidgeCV(alphas=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0)),
    )
    model.fit([_text(record) for record in train], [record.value for record in train])
    return torch.as_tensor(model.predict([_text(record) for record in held_out]))


def _turn(record: LabelledReply) -> int:
    return record.context.num_turns


def _text(record: LabelledReply) -> str:
    # Words of the reply are other features than the same words of the context.
    said = " ".join(m.text for m in record.context.messages[-_CONTEXT_MESSAGES:])
    reply = " ".join(f"reply_{word}" for word in record.reply.text.split())
    return f"{said} {reply}"
