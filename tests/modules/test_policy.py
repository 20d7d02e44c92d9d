from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor

from rlff_lightning.engines.sync import Mismatch
from rlff_lightning.errors import StoppedRun, UserError
from rlff_lightning.functional.objectives import GRPO
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.rollout.experience import Experience
from rlff_lightning.rollout.scorers import FormatScorer


class Watcher(Callback):
    """Keeps what Lightning hands over: gradients before each step, and old ratios' inputs."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.drift: list[float] = []

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Experience, batch_idx: int
    ) -> None:
        if batch.old_logps is not None:
            with torch.no_grad():
                now = pl_module._logps(pl_module.model, batch).logps
            self.drift.append((now - batch.old_logps).abs().max().item())

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        named = pl_module.model.named_parameters()
        self.gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})


def fit(
    module: PolicyModule, folder: Path, make: Callable[..., Any], **settings: Any
) -> tuple[Watcher, dict[str, float]]:
    watcher = Watcher()
    trainer = make(folder, callbacks=[watcher], **settings)
    trainer.fit(module)
    logged = {name: value.item() for name, value in trainer.logged_metrics.items()}
    return watcher, logged


def test_loss_and_gradients_do_not_depend_on_micro_batches(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    found = {}
    for parts in (1, 2, 4):
        module = tiny_policy(rollout={"updates": 1})
        watcher, logged = fit(
            module, tmp_path, quiet_trainer, max_steps=1, accumulate_grad_batches=parts
        )
        found[parts] = (watcher.gradients[0], logged)
    whole, whole_logged = found[1]
    assert max(gradient.abs().max() for gradient in whole.values()) > 1e-3
    for parts in (2, 4):
        gradients, logged = found[parts]
        for name, gradient in whole.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=2e-6)
        for key in ("train/policy_loss", "train/kl", "train/entropy", "train/engine_mismatch"):
            assert logged[key] == pytest.approx(whole_logged[key], rel=1e-3, abs=1e-6)


def test_the_first_update_on_a_rollout_starts_at_ratio_one_and_the_second_does_not(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    watcher, _ = fit(tiny_policy(), tmp_path, quiet_trainer, max_steps=4)
    first, second = watcher.drift[::2], watcher.drift[1::2]
    assert first == [0.0, 0.0]
    assert min(second) > 1e-4


def test_one_update_needs_no_old_logps_and_moves_against_the_advantage(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = tiny_policy(rollout={"updates": 1}, objective=GRPO(mismatch_cap=None))
    watcher, logged = fit(module, tmp_path, quiet_trainer, max_steps=1)
    assert watcher.drift == []
    # At ratio 1 a sequence's loss is -A, and the advantages of a group sum to 0.
    assert logged["train/policy_loss"] == pytest.approx(0, abs=1e-5)
    assert logged["rollout/sync_mismatch"] < 1e-4
    assert logged["train/engine_mismatch"] < 1e-4


def test_the_reference_stays_at_the_start_outside_registry_and_checkpoint(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = tiny_policy(rollout={"updates": 1})
    trainer = quiet_trainer(tmp_path, max_steps=2)
    trainer.fit(module)
    assert all(name.startswith("model.") for name in module.state_dict())
    [reference] = module._reference
    pairs = zip(module.model.parameters(), reference.parameters(), strict=True)  # type: ignore[union-attr]
    assert all(not torch.equal(own, frozen) for own, frozen in pairs)
    # The KL of the first update is 0: nothing has moved yet.
    fresh = tiny_policy(rollout={"updates": 1})
    _, logged = fit(fresh, tmp_path, quiet_trainer, max_steps=1)
    assert logged["train/kl"] == pytest.approx(0, abs=1e-6)


def test_a_second_pass_over_a_rollout_is_against_the_policy_at_rollout(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = tiny_policy(rollout={"updates": 1, "epochs": 2}, learning_rate=1e-2)
    watcher, logged = fit(module, tmp_path, quiet_trainer, max_steps=4)
    assert watcher.drift[::2] == [0.0, 0.0]
    assert min(watcher.drift[1::2]) > 1e-4
    assert module.experience is not None
    assert module.experience.iteration == 2
    assert logged["train/clipped_low"] + logged["train/clipped_high"] > 0


def test_a_rollout_ahead_is_stale_and_its_mismatch_shows_it(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    gaps = {}
    for ahead in (False, True):
        module = tiny_policy(rollout={"updates": 1, "ahead": ahead})
        _, logged = fit(module, tmp_path, quiet_trainer, max_steps=3)
        assert logged["rollout/staleness"] == float(ahead)
        assert logged["rollout/sync_mismatch"] < 1e-4
        gaps[ahead] = logged["train/engine_mismatch"]
    assert gaps[False] < 1e-4
    assert gaps[True] > 1e-3


def test_the_reward_can_hold_the_kl_to_a_reference_of_its_own(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = tiny_policy(
        rollout={"updates": 1, "reward_kl_coef": 0.1}, objective=GRPO(), learning_rate=1e-2
    )
    _, logged = fit(module, tmp_path, quiet_trainer, max_steps=3)
    assert len(module._reference) == 1
    # After two updates the policy has left the reference: the engine finds its words likelier.
    assert logged["rollout/reward/kl"] < -1e-3


def test_a_lora_policy_reaches_the_engine_merged(
    pocket_folder: Path,
    tiny_policy: Callable[..., PolicyModule],
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    module = tiny_policy(
        policy=Backbone(str(pocket_folder), adapter=LoraSettings(rank=4)),
        adapter_sync="merged",
        rollout={"updates": 1},
        learning_rate=1e-2,
    )
    watcher, logged = fit(module, tmp_path, quiet_trainer, max_steps=3)
    moved = dict(module.model.named_parameters())  # type: ignore[union-attr]
    assert max(w.abs().max() for name, w in moved.items() if "lora_B" in name) > 1e-3
    assert all("lora_" in name for name in watcher.gradients[-1])
    assert logged["rollout/sync_mismatch"] < 1e-4
    assert not (tmp_path / "engine_adapter").exists()


def test_an_update_logs_its_phases_its_speed_and_what_was_clipped(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = tiny_policy(rollout={"updates": 1}, objective=GRPO(mismatch_range=(2.0, 3.0)))
    _, logged = fit(module, tmp_path, quiet_trainer, max_steps=1, accumulate_grad_batches=2)
    for phase in ("sync", "generate", "score", "reference", "update"):
        assert logged[f"time/{phase}"] > 0
    seconds = sum(
        value for name, value in logged.items() if name.startswith("time/") if "_" not in name
    )
    expected = logged["rollout/tokens"] / seconds
    assert logged["time/tokens_per_s"] == pytest.approx(expected, rel=1e-3)
    assert logged["memory/peak_mb"] > 100
    # The engine is the trainer's equal: a geometric mean of 1 is outside of 2 to 3.
    assert logged["train/dropped"] == 1
    assert logged["train/capped"] == 0
    assert {"rollout/flat_groups", "rollout/length", "rollout/truncated"} <= logged.keys()


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_that_rounds_log_probabilities_is_refused(
    precision: str,
    tiny_policy: Callable[..., PolicyModule],
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=rf"trainer.precision must .* got '{precision}'; take bf16"):
        fit(tiny_policy(), tmp_path, quiet_trainer, max_steps=1, precision=precision)


@pytest.mark.parametrize(("limit", "is_fine"), [(2, True), (0.5, True), (1, False), (0.75, False)])
def test_an_epoch_is_limited_to_whole_iterations(
    limit: float,
    is_fine: bool,
    tiny_policy: Callable[..., PolicyModule],
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    # An epoch has two iterations of two updates.
    module = tiny_policy(rollout={"iterations_per_epoch": 2})
    settings = {"max_epochs": 1, "limit_train_batches": limit}
    if is_fine:
        fit(module, tmp_path, quiet_trainer, **settings)
        assert module.experience is not None
        assert module.experience.iteration == 1
        return
    with pytest.raises(UserError, match=r"whole iterations of 2 micro-batches .* got .* of 4; set"):
        fit(module, tmp_path, quiet_trainer, **settings)


def test_accumulation_that_changes_is_refused(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    changing = GradientAccumulationScheduler({0: 1, 1: 2})
    trainer = quiet_trainer(tmp_path, callbacks=[changing], max_steps=1)
    with pytest.raises(UserError, match=r"no GradientAccumulationScheduler: .* set trainer.acc"):
        trainer.fit(tiny_policy())


def test_two_scorers_of_one_name_are_refused(tiny_policy: Callable[..., PolicyModule]) -> None:
    with pytest.raises(UserError, match=r"PolicyModule.scorers must have names .* 'format'"):
        tiny_policy(scorers=[FormatScorer(), FormatScorer(0.5)])


def test_staleness_that_nothing_corrects_is_refused(
    tiny_policy: Callable[..., PolicyModule],
) -> None:
    with pytest.raises(UserError, match=r"ahead must be false .* nothing would correct"):
        tiny_policy(rollout={"ahead": True}, objective=GRPO(mismatch_cap=None))


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_move(
    tiny_policy: Callable[..., PolicyModule],
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = tiny_policy(objective=GRPO())
    before = Backbone(module.backbone.model_name_or_path).build().state_dict()
    found = PolicyModule._logps

    def broken(self: PolicyModule, *args: Any, **settings: Any) -> Any:
        stats = found(self, *args, **settings)
        return stats._replace(logps=stats.logps * torch.nan)

    monkeypatch.setattr(PolicyModule, "_logps", broken)
    with pytest.raises(StoppedRun, match=r"The loss of step 0 is nan .*: nothing was updated"):
        fit(module, tmp_path, quiet_trainer, max_steps=1)
    assert_weights_equal(module, before)


def assert_weights_equal(module: PolicyModule, expected: dict[str, Tensor]) -> None:
    assert module.model is not None
    for name, weight in module.model.state_dict().items():
        assert weight.equal(expected[name])


def test_a_reference_that_is_no_number_stops_the_run_before_the_weights_move(
    tiny_policy: Callable[..., PolicyModule],
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = tiny_policy(objective=GRPO(kl_coef=0.05))
    before = Backbone(module.backbone.model_name_or_path).build().state_dict()
    finish = PolicyModule.finish

    def broken(self: PolicyModule, batch: Experience) -> Experience:
        done = finish(self, batch)
        assert done.ref_logps is not None
        return done._replace(ref_logps=done.ref_logps * torch.nan)

    monkeypatch.setattr(PolicyModule, "finish", broken)
    line = r"The loss of step 0 is nan \(train/policy_loss -?[\d.e-]+, train/kl nan"
    with pytest.raises(StoppedRun, match=line):
        fit(module, tmp_path, quiet_trainer, max_steps=1)
    assert_weights_equal(module, before)


def test_a_gradient_that_is_no_number_stops_the_run_though_the_loss_is_one(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = tiny_policy(objective=GRPO())
    before = Backbone(module.backbone.model_name_or_path).build().state_dict()

    class Breaks(Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            weight = next(pl_module.model.parameters())
            weight.grad[0, 0] = torch.inf

    trainer = quiet_trainer(tmp_path, callbacks=[Breaks()], max_steps=1)
    with pytest.raises(StoppedRun, match="The gradient of step 0 is not finite, though the loss"):
        trainer.fit(module)
    assert_weights_equal(module, before)


def test_a_sync_is_proved_by_whole_prompts_now_and_then(
    tiny_policy: Callable[..., PolicyModule],
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rlff_lightning.modules.policy.LONG_PROBE_EVERY", 2)
    monkeypatch.setattr("rlff_lightning.modules.policy.PROBE_TOKENS", 20)
    lengths = []

    def proved(model: Any, engine: Any, prompts: Any, completions: Any, **_: Any) -> Mismatch:
        lengths.append([len(p) + len(c) for p, c in zip(prompts, completions, strict=True)])
        return Mismatch(0.0, 0.0)

    monkeypatch.setattr("rlff_lightning.modules.policy.verify_sync", proved)
    module = tiny_policy(rollout={"updates": 1})
    fit(module, tmp_path, quiet_trainer, max_steps=3)
    assert [max(found) > 20 for found in lengths] == [True, False, True]
