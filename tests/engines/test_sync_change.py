import pytest
import torch
from torch import Tensor

from rlff_lightning.engines.sync import StaleEngineError, verify_sync
from rlff_lightning.engines.sync_change import ChangeProof, Scores

TOKENS = 32


def drawn(seed: int, size: float = 1.0) -> Tensor:
    return size * torch.randn(TOKENS, generator=torch.Generator().manual_seed(seed))


def test_worked_example() -> None:
    proof = ChangeProof()
    assert proof.lag(Scores(torch.tensor([-1.0, -2.0]), {"a": torch.tensor([-1.0, -2.0])})) is None
    # d_trainer = (0.3, -0.4), d_engine = (0.1, 0.05): (0.03 - 0.02) / 0.25 = 0.04; rms 0.354.
    lag = proof.lag(Scores(torch.tensor([-0.7, -2.4]), {"a": torch.tensor([-0.9, -1.95])}))
    assert lag is not None
    assert lag.followed == pytest.approx(0.04, abs=1e-6)
    assert lag.moved == pytest.approx(0.35355, abs=1e-4)


def test_an_engine_that_keeps_its_weights_is_caught_far_below_the_absolute_bound() -> None:
    proof, start = ChangeProof(), drawn(0)
    proof.lag(Scores(start, {"fresh": start, "stale": start + drawn(1, 1e-6)}))
    now = start + drawn(2, 5e-5)
    lag = proof.lag(Scores(now, {"fresh": now, "stale": start + drawn(1, 1e-6)}))
    assert lag is not None
    assert (lag.engine, lag.followed) == ("stale", pytest.approx(0.0, abs=1e-4))


def test_small_changes_within_bfloat16_count_together_until_a_stale_engine_shows() -> None:
    proof, start = ChangeProof(), drawn(0)
    stale = start + drawn(1, 0.01)
    way = drawn(2, 0.002)
    seen = [proof.lag(Scores(start + step * way, {"stale": stale})) for step in range(40)]
    # 4 times the spread of 0.01 is moved after some 20 steps of 0.002.
    first = next(step for step, lag in enumerate(seen) if lag)
    assert 15 <= first <= 30


@pytest.mark.parametrize("step", [1e-7, 1e-4, 3e-3, 3e-2, 0.3])
@pytest.mark.parametrize("rounding", [1e-6, 0.01])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_a_healthy_engine_passes_whatever_rounding_and_a_constant_offset_add(
    step: float, rounding: float, offset: float
) -> None:
    proof, ours = ChangeProof(), drawn(0)
    for number in range(200):
        ours = ours + drawn(3 * number, step)
        theirs = ours + offset + drawn(3 * number + 1, rounding)
        assert proof.lag(Scores(ours + drawn(3 * number + 2, rounding), {"a": theirs})) is None


class Shifting(torch.nn.Module):
    """A model of four tokens whose logits a weight moves."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, input_ids: Tensor) -> object:
        logits = torch.arange(4.0) * self.weight + torch.zeros(*input_ids.shape, 4)
        return type("Output", (), {"logits": logits})


class Kept:
    """An engine of a constant offset that follows, or does not."""

    def __init__(self, model: Shifting, *, follows: bool) -> None:
        self.model, self.follows = model, follows

    def logps_by_engine(self, prompts: object, completions: list[list[int]]) -> object:
        weight = self.model.weight.detach() if self.follows else torch.tensor(0.0)
        logps = (torch.arange(4.0) * weight).log_softmax(-1) + 0.03
        return {"the engine": [[logps[token].item() for token in row] for row in completions]}


@pytest.mark.parametrize("follows", [True, False])
def test_a_run_stops_by_a_change_that_the_engine_did_not_make(follows: bool) -> None:
    model, change = Shifting(), ChangeProof()
    engine, probes = Kept(model, follows=follows), ([[0], [1]], [[1, 2, 3], [0, 1]])
    verify_sync(model, engine, *probes, max_mismatch=0.05, change=change)  # type: ignore[arg-type]
    with torch.no_grad():
        model.weight += 1e-3
    if follows:
        verify_sync(model, engine, *probes, max_mismatch=0.05, change=change)  # type: ignore[arg-type]
        return
    with pytest.raises(
        StaleEngineError, match=r"the engine's .* followed -?0% of a change of 0\.0"
    ):
        verify_sync(model, engine, *probes, max_mismatch=0.05, change=change)  # type: ignore[arg-type]
