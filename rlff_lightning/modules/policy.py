"""The policy learns by GRPO: experience comes from a loader, the loss is `training_step`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from typing_extensions import override

from rlff_lightning.dialogue.chat import ChatFormat, ChatSettings
from rlff_lightning.engines.base import Engine, Sampling
from rlff_lightning.engines.sync import AdapterSync, sync_weights, verify_sync
from rlff_lightning.engines.sync_change import ChangeProof
from rlff_lightning.errors import StoppedRun, UserError
from rlff_lightning.functional.objectives import GRPO
from rlff_lightning.functional.policy_objective import PolicyObjective
from rlff_lightning.models.adapters import policy_without_adapter
from rlff_lightning.models.backbone import Backbone, LanguageModel
from rlff_lightning.models.dropout import switch_dropout_off
from rlff_lightning.models.group_inputs import Sharing
from rlff_lightning.models.group_logps import group_logps
from rlff_lightning.models.saving import save_model
from rlff_lightning.modules.policy_settings import check_agreement, check_batches
from rlff_lightning.modules.schedules import by_step, check_optimizer
from rlff_lightning.modules.trained import TrainedModule
from rlff_lightning.modules.update_report import UpdateReport, peak_memory_mb
from rlff_lightning.modules.window import own_gradient_norm
from rlff_lightning.rollout.contexts import ContextStream
from rlff_lightning.rollout.experience import Experience
from rlff_lightning.rollout.group import Group
from rlff_lightning.rollout.learner import Learner
from rlff_lightning.rollout.loader import ExperienceLoader
from rlff_lightning.rollout.scorers import Learning, Scorer, check_scorers
from rlff_lightning.rollout.settings import RolloutSettings
from rlff_lightning.seeds import derive_seed, run_seed

PROBE_TOKENS = 32
"""Last tokens of a prompt that prove a sync; of these the last 16 are compared."""

LONG_PROBE_EVERY = 50
"""Syncs from one proof by whole prompts to the next: faults of positions grow with length."""


class PolicyModule(TrainedModule, Learner):
    """Group relative policy optimization on future-oriented rewards.

    Args:
        policy: The language model to train.
        engine: Samples its replies; takes new weights before every rollout.
        contexts: What it is asked to reply to.
        scorers: Terms of the reward.
        objective: Loss of an update.
        rollout: What an iteration samples.
        chat: How conversations are shown to the policy.
        learning_rate: Of AdamW, constant after warm-up.
        warmup_steps: Optimizer steps in which the rate rises.
        weight_decay: Of AdamW.
        sharing: Whether a group's prompt is computed once or per completion.
        adapter_sync: How a LoRA policy reaches the engine: its ``adapter`` alone, or all weights
            with it ``merged`` in, out of place; on a CPU vLLM serves adapters slowly.
        max_mismatch: Largest mean difference between the engine's and the trainer's
            log-probabilities of probe tokens after a sync, nats; beyond it the run stops, and also
            where an engine does not change as the trainer does.
        seed: Root of every draw of the loop; ``None`` takes the run's ``seed_everything``.

    Source: Shao et al. 2024, arXiv:2402.03300 (GRPO); RLFF-ESC, arXiv:2508.12935.
    """

    def __init__(
        self,
        policy: Backbone,
        engine: Engine,
        contexts: ContextStream,
        scorers: list[Scorer],
        objective: PolicyObjective | None = None,
        rollout: RolloutSettings | None = None,
        chat: ChatSettings | None = None,
        learning_rate: float = 1e-6,
        warmup_steps: int = 0,
        weight_decay: float = 0.0,
        sharing: Sharing = "auto",
        adapter_sync: AdapterSync = "adapter",
        max_mismatch: float = 1e-4,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not scorers:
            raise UserError("PolicyModule.scorers must name a term of the reward, got none")
        check_scorers("PolicyModule", scorers)
        self.backbone = policy
        self.engine = engine
        self.contexts = contexts
        self.scorers = scorers
        self.objective = objective or GRPO()
        self.rollout = rollout or RolloutSettings()
        check_agreement(self.objective, self.rollout)
        self.settings = chat or ChatSettings()
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.weight_decay = weight_decay
        check_optimizer(self)
        self.sharing: Sharing = sharing
        self.adapter_sync: AdapterSync = adapter_sync
        self.max_mismatch = max_mismatch
        self._probes: list[list[int]] = []
        self._change = ChangeProof()
        self.seed = run_seed(seed)
        self.model: LanguageModel | None = None
        self.experience: ExperienceLoader | None = None
        # A list hides the reference from the module registry: Lightning must not move, save or
        # shard it.
        self._reference: list[nn.Module] = []
        self._update = UpdateReport()
        self._resumed: list[dict[str, Any]] = []

    @override
    def setup(self, stage: str) -> None:
        kept = self.trainer.precision_plugin.convert_input(torch.zeros(1))
        if kept.dtype.itemsize < 4:
            raise UserError(
                "trainer.precision must leave a batch's log-probabilities and advantages in "
                f"float32, got {self.trainer.precision!r}; take bf16-mixed, or dtype: bfloat16 of "
                "the policy"
            )
        self.tokenizer = self.backbone.tokenizer()
        for scorer in self.scorers:
            # The module itself is moved later.
            scorer.start(self.trainer.strategy.root_device)

    @override
    def configure_model(self) -> None:
        if self.model is not None:
            return
        model = self.backbone.build()
        if dropouts := switch_dropout_off(model):
            rank_zero_info(f"The policy is trained without its dropout: {', '.join(dropouts)}")
        self.model = self.spread(model)
        if self._needs_reference and not hasattr(self.model, "peft_config"):
            reference = self.backbone.build().requires_grad_(False).eval()
            self._reference.append(self.spread(reference))

    @override
    def train_dataloader(self) -> ExperienceLoader:
        self.experience = ExperienceLoader(
            self,
            self.engine,
            ChatFormat(self.tokenizer, self.settings),
            self.contexts,
            self.scorers,
            self.rollout,
            num_parts=self.trainer.accumulate_grad_batches,
            seed=derive_seed(self.seed, "rank", self.global_rank),
        )
        check_batches(self.trainer, self.experience)
        for state in self._resumed:
            self.experience.load_state_dict(state)
        self._resumed = []
        return self.experience

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        # Lightning gives a loader its state back only in the middle of an epoch: after a
        # checkpoint from an epoch's end, the first iterations would come again.
        fit_loop = checkpoint.get("loops", {}).get("fit_loop", {"state_dict": {}})
        self._resumed = fit_loop["state_dict"].get("combined_loader", [])

    @override
    def on_fit_start(self) -> None:
        for reference in self._reference:
            reference.to(self.device)
        for scorer in self.scorers:
            scorer.attach(self.learning)

    @override
    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=self.weight_decay
        )
        warmup = max(self.warmup_steps, 1)
        return by_step(optimizer, lambda step: min(1.0, (step + 1) / warmup))

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self._update.start_clock()

    @override
    def training_step(self, batch: Experience, batch_idx: int) -> Tensor:
        stats = self._logps(self._policy, batch, with_entropy=self.objective.entropy_coef != 0)
        mask = batch.completion_mask
        old_logps = stats.logps.detach() if batch.old_logps is None else batch.old_logps
        terms = self.objective.terms(
            stats.logps,
            old_logps,
            batch.advantages,
            mask,
            ref_logps=batch.ref_logps,
            sampling_logps=batch.sampling_logps,
            entropy=stats.entropy,
        )
        loss = self.objective.loss(terms, mask, batch.window)
        self._update.add(batch, terms, loss, old_logps=old_logps, entropy=stats.entropy)
        # Lightning divides by the window's micro-batches, and DDP by the ranks.
        return loss.loss * self.trainer.accumulate_grad_batches * self.trainer.world_size

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        reduce = self.trainer.strategy.reduce
        update, has_finite_gradient = self._update.close(
            lambda sums: reduce(sums, reduce_op="sum"),
            lambda peaks: reduce(peaks, reduce_op="max"),
            own_gradient_norm(self.parameters()),
        )
        self._check_finite(update, has_finite_gradient=has_finite_gradient)
        self.log_dict(update)
        assert self.experience is not None
        self.log_dict(self.experience.report)
        for name, short in (("rollout/reward", "reward"), ("rollout/live_success", "live")):
            if name in self.experience.report:
                self.log(short, self.experience.report[name], prog_bar=True, logger=False)

    def _check_finite(self, update: dict[str, Tensor], *, has_finite_gradient: bool) -> None:
        """Stop before a step that would destroy the weights; all ranks see the same numbers."""
        step, loss = self.trainer.global_step, update["train/loss"]
        names = ("train/policy_loss", "train/kl", "train/entropy")
        parts = [f"{name} {update[name]:g}" for name in names if name in update]
        way_out = "nothing was updated; lower the learning rate or the objective's clip bounds"
        if not loss.isfinite():
            raise StoppedRun(f"The loss of step {step} is {loss:g} ({', '.join(parts)}): {way_out}")
        # The scaler of 16-mixed looks for such gradients itself, and leaves those steps out.
        has_scaler = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not has_finite_gradient and not has_scaler:
            raise StoppedRun(
                f"The gradient of step {step} is not finite, though the loss is {loss:g} "
                f"({', '.join(parts)}): {way_out}"
            )

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._update.stop_clock()
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return
        assert self.experience is not None
        report = self.experience.report
        update = self._update.take_seconds()
        rollout = sum(value for name, value in report.items() if name.startswith("time/"))
        whole = update + rollout / self.experience.updates_per_iteration
        self.log("time/update", update)
        self.log("time/tokens_per_s", self._update.num_tokens / whole)
        self.log("memory/peak_mb", peak_memory_mb(self.device))

    def _logps(self, model: nn.Module, batch: Experience, *, with_entropy: bool = False) -> Any:
        return group_logps(
            model,
            batch.prompt_ids,
            batch.prompt_mask,
            batch.completion_ids,
            batch.completion_mask,
            temperature=self.rollout.temperature,
            sharing=self.sharing,
            with_entropy=with_entropy,
        )

    @property
    def _needs_reference(self) -> bool:
        return bool(self.objective.kl_coef or self.rollout.reward_kl_coef)

    @property
    def learning(self) -> Learning:
        """What scorers may use of this stage, once the model is built."""
        sampling = Sampling(
            temperature=self.rollout.temperature, max_tokens=self.rollout.max_tokens
        )
        return Learning(self._policy, self.engine, self.settings, sampling)

    @property
    def _policy(self) -> LanguageModel:
        if self.model is None:
            raise UserError("PolicyModule must be set up by a Trainer before it is used")
        return self.model

    @override
    def sync(self, iteration: int, probes: Sequence[list[int]]) -> dict[str, float]:
        # A node's processes see the same files; other nodes may not.
        node = f"node-{self.trainer.node_rank}"
        sync_weights(
            self._policy,
            self.engine,
            version=iteration,
            folder=Path(self.trainer.default_root_dir) / "engine_adapter" / node,
            how=self.adapter_sync,
            is_writer=self.trainer.local_rank == 0,
        )
        # A stale weight shows at any position: short probes keep the proof cheap.
        is_short = iteration % LONG_PROBE_EVERY != 0
        if is_short:
            # The same ones each time: a stale engine shows by what it does not change.
            self._probes = self._probes or [probe[-PROBE_TOKENS:] for probe in probes]
            probes = self._probes
        cuts = [max(1, len(probe) - 16) for probe in probes]
        mismatch = verify_sync(
            self._policy,
            self.engine,
            [probe[:cut] for probe, cut in zip(probes, cuts, strict=True)],
            [probe[cut:] for probe, cut in zip(probes, cuts, strict=True)],
            max_mismatch=self.max_mismatch,
            change=self._change if is_short else None,
        )
        return {"rollout/sync_mismatch": mismatch.mean_abs}

    @override
    def window_size(self, groups: Sequence[Group]) -> Tensor:
        lengths = torch.tensor([len(c.token_ids) for group in groups for c in group.completions])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        size = self.objective.size(mask).to(self.device)
        return self.trainer.strategy.reduce(size, reduce_op="sum")

    @override
    @torch.no_grad()
    def finish(self, batch: Experience) -> Experience:
        # In the training step's precision: else the first ratio would not be 1.
        with self.trainer.precision_plugin.forward_context():
            return self._with_logps(batch)

    def _with_logps(self, batch: Experience) -> Experience:
        moved = Experience(*(None if x is None else x.to(self.device) for x in batch))  # type: ignore[arg-type]
        if self.rollout.updates * self.rollout.epochs > 1 or self.rollout.reward_kl_coef:
            moved = moved._replace(old_logps=self._logps(self._policy, moved).logps)
        if not self._needs_reference:
            return moved
        if self._reference:
            reference = self._logps(self._reference[0], moved).logps
        else:
            with policy_without_adapter(self._policy):
                reference = self._logps(self._policy, moved).logps
        return moved._replace(ref_logps=reference)

    @override
    def on_fit_end(self) -> None:
        # Not when training ends: a run that goes on after its last step trains no more.
        is_trial = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if not is_trial:
            name = "adapter" if hasattr(self.model, "peft_config") else "model"
            folder = Path(self.trainer.default_root_dir) / name
            is_writer = self.trainer.is_global_zero
            save_model(self._policy, self.tokenizer, folder, is_writer=is_writer)

    @override
    def teardown(self, stage: str) -> None:
        if self.experience is not None:
            self.experience.close()
        self.engine.close()
