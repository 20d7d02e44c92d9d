import pytest

from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.modules.samples import SamplesModule
from rlff_lightning.rollout.scorers import FormatScorer


def test_samples_are_drawn_from_the_seed_of_the_run_unless_they_have_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    policies = {"warm_start": TransformersEngine("./gone")}
    assert SamplesModule(policies, [FormatScorer()]).seed == 7
    assert SamplesModule(policies, [FormatScorer()], seed=3).seed == 3
