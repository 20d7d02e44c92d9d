import pytest

from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.errors import UserError
from rlff_lightning.modules.samples import SamplesModule
from rlff_lightning.rollout.scorers import FormatScorer
from rlff_lightning.rollout.shaping_scorers import OverlongScorer


def test_samples_are_drawn_from_the_seed_of_the_run_unless_they_have_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    policies = {"warm_start": TransformersEngine("./gone")}
    assert SamplesModule(policies, [FormatScorer()]).seed == 7
    assert SamplesModule(policies, [FormatScorer()], seed=3).seed == 3


def test_two_scorers_of_one_name_are_refused() -> None:
    policies = {"warm_start": TransformersEngine("./gone")}
    with pytest.raises(UserError, match=r"SamplesModule.scorers must have names of their own"):
        SamplesModule(policies, [FormatScorer(), FormatScorer(0.5)])  # type: ignore[dict-item]


def test_a_scorer_of_tokens_is_refused_as_humans_reply_in_text() -> None:
    policies = {"warm_start": TransformersEngine("./gone")}
    with pytest.raises(UserError, match=r"SamplesModule must have .* got OverlongScorer: it reads"):
        SamplesModule(policies, [OverlongScorer(4, max_tokens=8)])  # type: ignore[dict-item]
