"""Simulation of futures as `predict`: the Trainer spreads the contexts over processes."""

from collections.abc import Sequence

from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader
from typing_extensions import override

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.data.records import record_loader
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed, run_seed
from rlff_lightning.simulation.candidates import CandidateSettings, sample_candidates
from rlff_lightning.simulation.contexts import ContextSource, SelfPlayContexts
from rlff_lightning.simulation.futures import FutureSettings, FutureSimulator
from rlff_lightning.types import LabelledReply


class SimulationModule(LightningModule):
    """Label candidate replies with the reward of the futures they lead to.

    Args:
        supporter: Writes the candidates and carries their futures on.
        seeker: Answers.
        critic: Values every answer.
        contexts: Where contexts come from; by default the cast's own conversations.
        candidates: How many replies are tried per context.
        futures: The reward.
        num_contexts: Contexts to label.
        batch_size: Contexts that are played at once, per process.
        seed: Root of every draw; the same seed gives the same table. ``None`` takes the run's
            ``seed_everything``.
    """

    def __init__(
        self,
        supporter: Supporter,
        seeker: Seeker,
        critic: Critic,
        contexts: ContextSource | None = None,
        candidates: CandidateSettings | None = None,
        futures: FutureSettings | None = None,
        num_contexts: int = 1000,
        batch_size: int = 64,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("num_contexts", num_contexts), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"SimulationModule.{name} must be at least 1, got {value!r}")
        self.cast = Cast(supporter, seeker, critic)
        self.contexts = contexts or SelfPlayContexts()
        self.candidates = candidates or CandidateSettings()
        self.simulator = FutureSimulator(self.cast, futures or FutureSettings())
        self.num_contexts = num_contexts
        self.batch_size = batch_size
        self.seed = run_seed(seed)

    @override
    def predict_dataloader(self) -> DataLoader[int]:
        return record_loader(range(self.num_contexts), self.batch_size)

    @override
    def predict_step(self, batch: Sequence[int], batch_idx: int) -> list[LabelledReply]:
        seed = derive_seed(self.seed, "simulation")
        contexts = self.contexts.contexts(batch, self.cast, seed=seed)
        candidates = sample_candidates(contexts, self.cast.supporter, self.candidates)
        return self.simulator.label(candidates)

    @override
    def on_predict_end(self) -> None:
        self.cast.supporter.close()
