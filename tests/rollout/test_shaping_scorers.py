import pytest
from torch import nn

from rlff_lightning.dialogue.chat import ChatSettings
from rlff_lightning.engines.base import Sampling
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.errors import UserError
from rlff_lightning.rollout.scorers import Learning, Sampled
from rlff_lightning.rollout.shaping_scorers import OverlongScorer, TokenRepetitionScorer
from rlff_lightning.types import Conversation, Message


def sampled(*token_ids: int) -> Sampled:
    context = Conversation(id="a", messages=(Message(role="seeker", text="hello"),))
    reply = Message(role="supporter", text="")
    return Sampled(context=context, text="", reply=reply, token_ids=token_ids, is_finished=True)


def learning(max_tokens: int) -> Learning:
    sampling = Sampling(max_tokens=max_tokens)
    return Learning(nn.Identity(), TransformersEngine("none"), ChatSettings(), sampling)


def test_the_penalty_grows_over_the_buffer_before_the_rollouts_limit():
    scorer = OverlongScorer(buffer_tokens=4)
    scorer.attach(learning(max_tokens=10))
    # The buffer begins after token 6: 7 tokens are a quarter into it, 10 are at its end.
    scores = scorer.score([sampled(*range(count)) for count in (3, 6, 7, 10)])
    assert scores.tolist() == pytest.approx([0, 0, -0.25, -1])


def test_an_explicit_limit_stands_against_the_rollouts():
    scorer = OverlongScorer(buffer_tokens=2, max_tokens=4)
    scorer.attach(learning(max_tokens=10))
    assert scorer.score([sampled(1, 2, 3)]).tolist() == [-0.5]


def test_a_buffer_longer_than_the_limit_is_refused_before_anything_is_sampled():
    with pytest.raises(UserError, match=r"buffer_tokens must be in \[1, max_tokens=4\], got 5"):
        OverlongScorer(buffer_tokens=5, max_tokens=4)
    scorer = OverlongScorer(buffer_tokens=11)
    with pytest.raises(UserError, match="max_tokens=10"):
        scorer.attach(learning(max_tokens=10))


def test_a_limit_that_nobody_gave_is_asked_for():
    with pytest.raises(UserError, match="max_tokens must be given"):
        OverlongScorer(buffer_tokens=2).score([sampled(1)])


def test_repeated_token_ngrams_are_counted_and_padding_is_not():
    # 1 2 1 2 1: pairs 12, 21, 12, 21: two of four were there before.
    scores = TokenRepetitionScorer(ngram_size=2).score(
        [sampled(1, 2, 1, 2, 1), sampled(0), sampled(3, 4)]
    )
    assert scores.tolist() == pytest.approx([-0.5, 0, 0])
    with pytest.raises(UserError, match="ngram_size"):
        TokenRepetitionScorer(ngram_size=0)
