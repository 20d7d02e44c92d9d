"""Simulation of futures as `predict`: the Trainer spreads the contexts over processes."""

import logging
from collections.abc import Collection, Iterator, Sequence

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.agents.joint import joint_cast
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed, run_seed
from rlff_lightning.simulation.candidates import CandidateSettings
from rlff_lightning.simulation.contexts import ContextSource, SelfPlayContexts
from rlff_lightning.simulation.futures import FutureSettings, FutureSimulator
from rlff_lightning.simulation.simulate import Simulated, simulate
from rlff_lightning.simulation.tally import CountedSeeker, Tally
from rlff_lightning.simulation.together import Together

_log = logging.getLogger(__name__)


class SimulationModule(LightningModule):
    """Label candidate replies with the reward of the futures they lead to.

    Args:
        supporter: Writes the candidates and carries their futures on.
        seeker: Answers.
        critic: Values every answer.
        contexts: Where contexts come from; by default the cast's own conversations.
        candidates: How many replies are tried per context, and whose.
        futures: The reward.
        num_contexts: Contexts to label.
        batch_size: Contexts that are stored together, per process.
        batches_at_once: As many contexts as so many batches have are played at once, per process,
            each at its own pace; where one ends the next begins. More fill the engine's batches; a
            kill loses them, and what is finished of a batch that is not.
        seed: Root of every draw; the same seed gives the same table. ``None`` takes the run's
            ``seed_everything``.
        retry_quarantined: Take up contexts again that an earlier run gave up.
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
        batches_at_once: int = 2,
        seed: int | None = None,
        retry_quarantined: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            ("num_contexts", num_contexts),
            ("batch_size", batch_size),
            ("batches_at_once", batches_at_once),
        ):
            if value < 1:
                raise UserError(f"SimulationModule.{name} must be at least 1, got {value!r}")
        self.tally = Tally()
        self.seeker = CountedSeeker(seeker, self.tally, self._end_if_told)
        self.cast = Cast(supporter, self.seeker, critic)
        self.contexts = contexts or SelfPlayContexts()
        self.candidates = candidates or CandidateSettings()
        if self.candidates.origins != "policy" and not self.contexts.has_replies:
            raise UserError(
                f"CandidateSettings.origins is {self.candidates.origins!r}, but "
                f"{type(self.contexts).__name__} has no human replies; take DialogueContexts"
            )
        self.futures = futures or FutureSettings()
        num_held = self.contexts.num_held()
        if num_held is not None and num_contexts > num_held:
            raise UserError(
                f"SimulationModule.num_contexts must be at most {num_held}, which is what "
                f"{type(self.contexts).__name__} hold, got {num_contexts}"
            )
        self.num_contexts = num_contexts
        self.batch_size = batch_size
        self.batches_at_once = batches_at_once
        self.seed = run_seed(seed)
        self.retry_quarantined = retry_quarantined
        self.earlier = Tally()
        self._left_out: Collection[int] = ()
        self._together = Together(self._play)
        self._batches: list[list[int]] = []

    def leave_out(self, finished: Collection[int], quarantined: Collection[int] = ()) -> None:
        """Simulate all contexts but these, which earlier runs were done with."""
        self._left_out = frozenset([*finished, *quarantined])
        self.earlier = Tally(
            finished=sum(number < self.num_contexts for number in finished),
            quarantined=sum(number < self.num_contexts for number in quarantined),
        )

    @override
    def predict_dataloader(self) -> "Batches":
        rest = [number for number in range(self.num_contexts) if number not in self._left_out]
        return Batches(rest[self.global_rank :: self.trainer.world_size], self.batch_size)

    @override
    def on_predict_start(self) -> None:
        [limit] = self.trainer.num_predict_batches
        self._batches = list(self.predict_dataloader())[: int(limit)]
        for agent in self.agents.values():
            agent.start()
        num_samples = self.candidates.num_samples
        if self.candidates.origins != "human" and num_samples > 1 and self.cast.supporter.is_greedy:
            rank_zero_warn(
                f"SimulationModule.supporter is greedy (temperature 0), so the {num_samples} "
                "samples of CandidateSettings.num_samples are one reply; raise its temperature"
            )

    @override
    def teardown(self, stage: str) -> None:
        self._together.cancel()

    @override
    def predict_step(self, batch: Sequence[int], batch_idx: int) -> dict[int, Simulated]:
        if not batch:
            return {}
        num_live = self.batch_size * self.batches_at_once
        found = self._together.finish(batch_idx, self._batches, num_live)
        return dict(zip(batch, found, strict=True))

    def _play(self, number: int) -> Simulated:
        cast = joint_cast(self.cast)
        seed = derive_seed(self.seed, "simulation")
        contexts = self.contexts.contexts([number], cast, seed=seed)
        human = self.contexts.replies([number], seed=seed) if self.contexts.has_replies else None
        simulator = FutureSimulator(cast, self.futures)
        [found] = simulate(contexts, cast.supporter, self.candidates, simulator, human)
        self._count(found)
        return found

    def _end_if_told(self) -> None:
        # Lightning catches SIGTERM, and its prediction loop never looks whether there was one.
        if self.trainer.received_sigterm:
            raise SIGTERMException

    def _count(self, found: Simulated) -> None:
        self.tally.quarantined += bool(found.failure)
        self.tally.finished += not found.failure
        futures = [future for reply in found.replies for future in reply.futures]
        self.tally.replies += len(found.replies)
        self.tally.futures += len(futures)
        self.tally.cut += sum(future.is_cut for future in futures)

    @property
    def agents(self) -> dict[str, Supporter | Seeker | Critic]:
        """The agents by role, as they were given."""
        proposer = self.candidates.proposer
        of_contexts = [agent for agent in self.contexts.supporters() if agent is not proposer]
        return {
            "supporter": self.cast.supporter,
            "seeker": self.seeker.seeker,
            "critic": self.cast.critic,
            **({"proposer": proposer} if proposer else {}),
            **{f"context supporter {n}": agent for n, agent in enumerate(of_contexts, start=1)},
        }

    def count_used(self) -> Tally:
        """Note what every role used up by now, and give what was done so far."""
        self.tally.counts = {role: agent.counts for role, agent in self.agents.items()}
        return self.tally

    @override
    def on_predict_end(self) -> None:
        self._tell_cut()
        for agent in self.agents.values():
            agent.close()

    def _tell_cut(self) -> None:
        mine = torch.tensor([self.tally.cut, self.tally.futures], device=self.device)
        num_cut, num_futures = self.trainer.strategy.reduce(mine, reduce_op="sum").tolist()
        if num_cut and self.trainer.is_global_zero:
            _log.warning(
                "%d of this run's %d futures ended with their conversation's turn %d "
                "(FutureSettings.max_turns) before they had %d of the seeker's; their labels are "
                "means over fewer",
                *(num_cut, num_futures, self.futures.max_turns, self.futures.look_ahead),
            )


class Batches:
    """Batches of context numbers; at least one, for all processes must take part.

    Args:
        numbers: This process's share, perhaps none.
        batch_size: Numbers per batch.
    """

    def __init__(self, numbers: Sequence[int], batch_size: int) -> None:
        self._batches = [
            list(numbers[start : start + batch_size])
            for start in range(0, max(len(numbers), 1), batch_size)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)
