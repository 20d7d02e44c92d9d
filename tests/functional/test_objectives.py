import math
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.objectives import CISPO, DAPO, GRPO, GSPO, DrGRPO
from rlff_lightning.functional.policy_objective import PolicyLoss, PolicyObjective
from rlff_lightning.modules.update_report import UpdateReport

SHARED = {"kl_coef": 0.1, "entropy_coef": 0.01, "mismatch_range": (0.7, 1.5)}
OBJECTIVES = [
    GRPO(**SHARED),
    GRPO(kl_estimator="k2", max_ratio=1.5, **SHARED),
    DrGRPO(max_tokens=7, **SHARED),
    DAPO(kl_estimator="k1", **SHARED),
    GSPO(**SHARED),
    CISPO(clip_low=0.3, clip_high=0.3, **SHARED),
]
objectives = st.sampled_from(OBJECTIVES)
seeds = st.integers(0, 999)


class Batch(NamedTuple):
    logps: Tensor
    old_logps: Tensor
    advantages: Tensor
    loss_mask: Tensor
    ref_logps: Tensor
    sampling_logps: Tensor
    entropy: Tensor

    def rows(self, rows: list[int]) -> "Batch":
        return Batch(*(tensor[rows] for tensor in self))

    def padded(self, columns: int, filler: float) -> "Batch":
        def pad(tensor: Tensor) -> Tensor:
            if tensor.dim() == 1:
                return tensor
            value = False if tensor.dtype == torch.bool else filler
            return torch.nn.functional.pad(tensor, (columns, columns), value=value)

        return Batch(*map(pad, self))


def draw(seed: int, num_rows: int = 6, num_tokens: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def near(logps: Tensor, spread: float) -> Tensor:
        noise = torch.randn(logps.shape, generator=generator, dtype=torch.float64)
        return logps + spread * noise

    old_logps = near(torch.full((num_rows, num_tokens), -2.0, dtype=torch.float64), 0.5)
    lengths = torch.randint(0, num_tokens + 1, (num_rows, 1), generator=generator)
    return Batch(
        logps=near(old_logps, 0.3),
        old_logps=old_logps,
        advantages=torch.randn(num_rows, generator=generator, dtype=torch.float64),
        loss_mask=torch.arange(num_tokens) < lengths,
        ref_logps=near(old_logps, 0.3),
        sampling_logps=near(old_logps, 0.4),
        entropy=torch.rand(num_rows, num_tokens, generator=generator, dtype=torch.float64),
    )


def loss_and_gradients(
    objective: PolicyObjective, batches: list[Batch], size: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    if size is None:
        size = torch.stack([objective.size(batch.loss_mask) for batch in batches]).sum()
    loss, gradients = torch.zeros((), dtype=torch.float64), []
    for batch in batches:
        logps = batch.logps.clone().requires_grad_()
        terms = objective.terms(**batch._replace(logps=logps)._asdict())
        part = objective.loss(terms, batch.loss_mask, size).loss
        part.backward()
        assert logps.grad is not None
        loss, gradients = loss + part.detach(), [*gradients, logps.grad]
    return loss, gradients


@given(objectives, seeds, st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_loss_and_gradients_do_not_depend_on_the_split_into_micro_batches(
    objective: PolicyObjective, seed: int, assignment: list[int]
) -> None:
    batch = draw(seed)
    parts = [[i for i in range(6) if assignment[i] == part] for part in range(3)]
    parts = [part for part in parts if part]
    loss, (gradient,) = loss_and_gradients(objective, [batch])
    split_loss, split = loss_and_gradients(objective, [batch.rows(part) for part in parts])
    torch.testing.assert_close(split_loss, loss)
    torch.testing.assert_close(torch.cat(split), gradient[[row for part in parts for row in part]])


@given(objectives, seeds, st.permutations(range(6)))
def test_loss_and_gradients_do_not_depend_on_the_order_of_rows(
    objective: PolicyObjective, seed: int, order: list[int]
) -> None:
    batch = draw(seed)
    loss, (gradient,) = loss_and_gradients(objective, [batch])
    mixed_loss, (mixed,) = loss_and_gradients(objective, [batch.rows(order)])
    torch.testing.assert_close(mixed_loss, loss)
    torch.testing.assert_close(mixed, gradient[order])


@given(objectives, seeds, st.integers(1, 3), st.sampled_from([0.0, -1e9, math.inf, math.nan]))
def test_loss_and_gradients_do_not_depend_on_what_is_masked(
    objective: PolicyObjective, seed: int, columns: int, filler: float
) -> None:
    batch = draw(seed)
    loss, (gradient,) = loss_and_gradients(objective, [batch])
    padded_loss, (padded,) = loss_and_gradients(objective, [batch.padded(columns, filler)])
    torch.testing.assert_close(padded_loss, loss)
    torch.testing.assert_close(padded[:, columns:-columns], gradient)
    assert (padded[:, :columns] == 0).all()
    assert (padded[:, -columns:] == 0).all()


@given(objectives, seeds, st.sampled_from([math.inf, math.nan]))
def test_terms_are_zero_where_nothing_trains(
    objective: PolicyObjective, seed: int, filler: float
) -> None:
    batch = draw(seed).padded(1, filler)
    terms = objective.terms(**batch._asdict())
    for values in (terms.policy_loss, terms.kl, terms.entropy):
        assert values is not None
        assert (values[~batch.loss_mask] == 0).all()


@given(
    st.sampled_from([GRPO(), DrGRPO(max_tokens=5), DAPO(), GSPO(), CISPO()]),
    seeds,
)
def test_before_the_first_update_the_gradient_is_minus_the_advantage_times_the_weight(
    objective: PolicyObjective, seed: int
) -> None:
    batch = draw(seed)
    logps = batch.old_logps.clone().requires_grad_()
    terms = objective.terms(logps, logps.detach(), batch.advantages, batch.loss_mask)
    objective.loss(terms, batch.loss_mask, objective.size(batch.loss_mask)).loss.backward()
    lengths = batch.loss_mask.sum(dim=1, keepdim=True).clamp(min=1)
    weights = {
        "sequence": 1 / (6 * lengths),
        "token": 1 / batch.loss_mask.sum().clamp(min=1),
        "constant": torch.tensor(1 / (6 * 5)),
    }[objective.aggregation]
    expected = -batch.advantages[:, None] * weights.double() * batch.loss_mask
    assert logps.grad is not None
    torch.testing.assert_close(logps.grad, expected)


def test_grpo_by_hand() -> None:
    # One row, A = 1, two tokens with ratios 1.5 (clipped to 1.2) and 1, reference twice and
    # once as likely: policy loss -(1.2 + 1) / 2 = -1.1; k3 = 2 - 1 - log 2 = 0.30685 and 0,
    # mean 0.15343. Loss = -1.1 + 0.1 * 0.15343 = -1.08466.
    old_logps = torch.tensor([[-2.0, -2.0]], dtype=torch.float64)
    logps = old_logps + torch.tensor([[1.5, 1.0]], dtype=torch.float64).log()
    ref_logps = logps + torch.tensor([[2.0, 1.0]], dtype=torch.float64).log()
    mask = torch.tensor([[True, True]])
    objective = GRPO(kl_coef=0.1)
    terms = objective.terms(logps, old_logps, torch.ones(1), mask, ref_logps=ref_logps)
    result = objective.loss(terms, mask, 1)
    assert result.policy_loss.item() == pytest.approx(-1.1)
    assert result.kl is not None
    assert result.kl.item() == pytest.approx(0.153426, abs=1e-6)
    assert result.loss.item() == pytest.approx(-1.084657, abs=1e-6)


def test_the_mismatch_weighs_the_policy_loss_and_not_the_kl() -> None:
    # Trainer over engine = 1/2 halves the policy loss -1 to -0.5; k1 = log 2 stays.
    logps = torch.tensor([[-1.0]], dtype=torch.float64)
    mask = torch.tensor([[True]])
    terms = GRPO(kl_coef=1.0, kl_estimator="k1").terms(
        logps,
        logps,
        torch.ones(1),
        mask,
        ref_logps=logps - math.log(2),
        sampling_logps=logps + math.log(2),
    )
    assert terms.policy_loss.item() == pytest.approx(-0.5)
    assert terms.kl is not None
    assert terms.kl.item() == pytest.approx(math.log(2))


def test_the_entropy_bonus_lowers_the_loss() -> None:
    logps, mask = torch.tensor([[-1.0, -1.0]]), torch.tensor([[True, True]])
    objective = DAPO(entropy_coef=0.5)
    terms = objective.terms(logps, logps, torch.zeros(1), mask, entropy=torch.tensor([[1.0, 3.0]]))
    assert objective.loss(terms, mask, 2).loss.item() == -1.0  # -0.5 * (1 + 3) / 2


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        # Entropies 1, 3 | 5, masked.
        (GRPO(entropy_coef=0.5), (2 + 5) / 2),
        (DAPO(entropy_coef=0.5), 9 / 3),
        (DrGRPO(max_tokens=4, entropy_coef=0.5), 9 / (2 * 4)),
    ],
    ids=["sequence", "token", "constant"],
)
def test_the_entropy_bonus_is_averaged_as_the_surrogate_is(
    objective: PolicyObjective, expected: float
) -> None:
    mask, logps = torch.tensor([[True, True], [True, False]]), torch.zeros(2, 2)
    entropy = torch.tensor([[1.0, 3.0], [5.0, torch.nan]])
    terms = objective.terms(logps, logps, torch.zeros(2), mask, entropy=entropy)
    loss = objective.loss(terms, mask, objective.size(mask)).loss
    assert loss.item() == pytest.approx(-0.5 * expected)


def test_advantages_may_be_given_per_token() -> None:
    logps, mask = torch.tensor([[-1.0, -1.0]]), torch.tensor([[True, True]])
    terms = GRPO().terms(logps, logps, torch.tensor([[2.0, -3.0]]), mask)
    assert terms.policy_loss.tolist() == [[-2.0, 3.0]]


def test_equal_rewards_and_no_kl_give_no_gradient() -> None:
    for objective in (GRPO(), DAPO(), GSPO(), CISPO()):
        batch = draw(3)
        logps = batch.logps.requires_grad_()
        terms = objective.terms(logps, batch.old_logps, torch.zeros(6).double(), batch.loss_mask)
        (gradient,) = torch.autograd.grad(objective.loss(terms, batch.loss_mask, 6).loss, logps)
        assert (gradient == 0).all()


def test_statistics_count_clipped_tokens_and_dropped_sequences() -> None:
    # Ratios 2, 1 | 0.5, masked: A = 1 clips the 2, A = -1 clips the 0.5; 3 tokens count.
    # Trainer over engine: 3, 1 | 1/9, masked: geometric means sqrt(3) and 1/9.
    def log(rows: list[list[float]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64).log()

    mask = torch.tensor([[True, True], [True, False]])
    terms = GRPO(mismatch_range=(0.5, 2.0)).terms(
        log([[0.4, 0.2], [0.1, 0.9]]),
        log([[0.2, 0.2], [0.2, 0.1]]),
        torch.tensor([1.0, -1.0]),
        mask,
        sampling_logps=log([[0.2 / 3, 0.2], [1.8, 1e-9]]),
    )
    none = torch.zeros(())
    report = UpdateReport()
    report.add(
        SimpleNamespace(completion_mask=mask, sampling_logps=torch.zeros(2, 2)),  # type: ignore[arg-type]
        terms,
        PolicyLoss(none, none, None, None),
        old_logps=torch.zeros(2, 2),
        entropy=torch.zeros(2, 2),
    )
    figures, has_finite_gradient = report.close(lambda x: x, lambda x: x, torch.tensor(1.0))
    assert has_finite_gradient
    found = {name: value.item() for name, value in figures.items()}
    assert "train/kl" not in found  # there is no reference
    assert found["train/clipped_high"] == pytest.approx(1 / 3)
    assert found["train/clipped_low"] == pytest.approx(1 / 3)
    assert found["train/ratio"] == pytest.approx(3.5 / 3)
    assert found["train/ratio_max"] == pytest.approx(2.0)
    assert found["train/engine_ratio"] == pytest.approx((4 + 1 / 9) / 3)
    assert found["train/engine_ratio_max"] == pytest.approx(3.0)
    assert found["train/capped"] == pytest.approx(1 / 3)
    assert found["train/dropped"] == 0.5


def test_the_kl_is_logged_as_the_mean_over_all_tokens_whatever_the_loss_averages() -> None:
    # k1 is 0.6, 0.3 | 0.9, masked in one micro-batch and 0.2 in another: 2.0 over 4 tokens. The
    # mean of sequence means would be (0.45 + 0.9 + 0.2) / 3.
    report = UpdateReport()
    for kl, mask in (
        ([[0.6, 0.3], [0.9, 7.0]], [[True, True], [True, False]]),
        ([[0.2, torch.nan]], [[True, False]]),
    ):
        counted, zeros = torch.tensor(mask), torch.zeros(len(mask), 2)
        batch = SimpleNamespace(completion_mask=counted, sampling_logps=zeros)
        objective = GRPO(kl_coef=0.1, kl_estimator="k1")
        terms = objective.terms(
            zeros, zeros, torch.zeros(len(mask)), counted, ref_logps=-torch.tensor(kl)
        )
        loss = objective.loss(terms, counted, 3)
        report.add(batch, terms, loss, old_logps=zeros, entropy=zeros)  # type: ignore[arg-type]
    figures, _ = report.close(lambda x: x, lambda x: x, torch.tensor(1.0))
    assert figures["train/kl"].item() == pytest.approx(0.5)
    assert figures["train/loss"].item() == pytest.approx(0.1 * (0.45 + 0.9 + 0.2) / 3)


def test_a_kl_without_a_reference_is_refused() -> None:
    batch = draw(0)
    with pytest.raises(UserError, match=r"GRPO.kl_coef is 0.04, which needs ref_logps"):
        GRPO(kl_coef=0.04).terms(*batch[:4])


def test_an_entropy_bonus_without_entropy_is_refused() -> None:
    with pytest.raises(UserError, match=r"GRPO\.entropy_coef"):
        GRPO(entropy_coef=0.1).terms(*draw(0)[:4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip_low": -0.1}, "GRPO.clip_low must be at least 0, got -0.1"),
        ({"kl_coef": -1.0}, "GRPO.kl_coef must be at least 0, got -1.0"),
        ({"aggregation": "constant"}, "GRPO.max_tokens must be"),
        ({"mismatch_range": (2.0, 0.5)}, "GRPO.mismatch_range must be"),
        ({"mismatch_cap": 0.0}, "GRPO.mismatch_cap must be above 0, got 0"),
        ({"max_ratio": 0.9}, r"GRPO.max_ratio must be at least 1 \+ clip_high = 1.2, got 0.9"),
        ({"max_ratio": 1.3, "clip_high": 0.4}, r"must be at least 1 \+ clip_high = 1.4, got 1.3"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(arguments: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UserError, match=message):
        GRPO(**arguments)


def test_an_objective_is_one_key_of_a_config() -> None:
    from jsonargparse import ArgumentParser

    class Module:
        def __init__(self, objective: PolicyObjective) -> None:
            self.objective = objective

    parser = ArgumentParser()
    parser.add_class_arguments(Module, "model")
    config = parser.parse_args(
        [
            "--model.objective=rlff_lightning.functional.objectives.DAPO",
            "--model.objective.clip_high=0.3",
            "--model.objective.mismatch_range=[0.5, 2.0]",
        ]
    )
    objective = parser.instantiate(config).model.objective
    assert objective == DAPO(clip_high=0.3, mismatch_range=(0.5, 2.0))
