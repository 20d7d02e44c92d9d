"""Goal completion as `test`: policies converse with seekers, a critic judges."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import nn
from torch.utils.data import DataLoader
from typing_extensions import override

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.agents.self_play import play
from rlff_lightning.data.records import Records, record_loader
from rlff_lightning.errors import UserError
from rlff_lightning.metrics.goal_completion import GoalCompletion
from rlff_lightning.seeds import derive_seed, run_seed
from rlff_lightning.simulation.transcripts import write_episodes, write_markdown
from rlff_lightning.types import Episode


class GoalModule(LightningModule):
    """Play the same episodes with every policy and compare how often the goal is reached.

    Args:
        policies: Supporters by name; all meet the same seekers with the same seeds.
        seeker: Plays the people.
        critic: Judges every turn; its name is part of the result.
        num_episodes: Episodes per policy.
        max_turns: Supporter turns after which an episode fails.
        batch_size: Episodes played at once, per process.
        num_shown: Dialogues of each policy written as Markdown.
        seed: Root of every draw; ``None`` takes the run's ``seed_everything``.
    """

    def __init__(
        self,
        policies: dict[str, Supporter],
        seeker: Seeker,
        critic: Critic,
        num_episodes: int = 200,
        max_turns: int = 8,
        batch_size: int = 200,
        num_shown: int = 5,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not policies:
            raise UserError("GoalModule.policies must name a supporter, got none")
        if num_episodes < 1 or max_turns < 1:
            raise UserError("GoalModule.num_episodes and max_turns must be at least 1")
        self.policies = policies
        self.seeker = seeker
        self.critic = critic
        self.num_episodes = num_episodes
        self.max_turns = max_turns
        self.batch_size = batch_size
        self.num_shown = num_shown
        self.seed = run_seed(seed)
        self.completion = nn.ModuleDict({name: GoalCompletion(max_turns) for name in policies})
        self._episodes: dict[str, list[Episode]] = {name: [] for name in policies}

    @override
    def test_dataloader(self) -> list[DataLoader[int]]:
        seeds = [derive_seed(self.seed, "episode", number) for number in range(self.num_episodes)]
        return [self._loader(seeds) for _ in self.policies]

    def _loader(self, seeds: Sequence[int]) -> DataLoader[int]:
        if self.trainer.world_size == 1:
            return record_loader(seeds, self.batch_size)
        # The Trainer's own sampler would repeat episodes to give every rank as many.
        return record_loader(
            seeds,
            self.batch_size,
            sampler=UnrepeatedDistributedSampler(
                Records(seeds),
                num_replicas=self.trainer.world_size,
                rank=self.global_rank,
                shuffle=False,
            ),
        )

    @override
    def test_step(self, batch: Sequence[int], batch_idx: int, dataloader_idx: int = 0) -> None:
        names = list(self.policies)
        name = names[dataloader_idx]
        if batch_idx == 0 and dataloader_idx > 0:
            # One engine at a time.
            self.policies[names[dataloader_idx - 1]].close()
        cast = Cast(self.policies[name], self.seeker, self.critic)
        episodes = play(self.seeker.open(batch), cast, max_turns=self.max_turns)
        self._metric(name).update_episodes(episodes)
        self._episodes[name] += episodes

    def _metric(self, name: str) -> GoalCompletion:
        metric = self.completion[name]
        assert isinstance(metric, GoalCompletion)
        return metric

    @override
    def on_test_epoch_end(self) -> None:
        figures = {name: self._metric(name).compute() for name in self.policies}
        for name, values in figures.items():
            self.log_dict({f"test/{name}/{key}": values[key] for key in _LOGGED})
        folder = Path(self.trainer.default_root_dir)
        for name, episodes in self._episodes.items():
            write_episodes(episodes, folder / "episodes" / f"{name}-{self.global_rank}.jsonl")
            if self.trainer.is_global_zero:
                shown = episodes[: self.num_shown]
                write_markdown(shown, folder / "dialogues" / f"{name}.md", name)
        if self.trainer.is_global_zero:
            text = json.dumps(self._summary(figures), indent=1)
            (folder / "summary.json").write_text(text + "\n", encoding="utf-8")

    @override
    def teardown(self, stage: str) -> None:
        for policy in self.policies.values():
            policy.close()

    def _summary(self, figures: dict[str, dict[str, float]]) -> dict[str, Any]:
        # Figures come as float32: more digits than these are its rounding.
        figures = {
            name: {key: float(f"{value:.7g}") for key, value in values.items()}
            for name, values in figures.items()
        }
        return {
            "policies": {
                name: {
                    "success_rate": values["success_rate"],
                    "average_turns": values["average_turns"],
                    "episodes": int(values["episodes"]),
                    "ci95": [values["success_rate_low"], values["success_rate_high"]],
                    **{key: value for key, value in values.items() if key not in _NAMED},
                }
                for name, values in figures.items()
            },
            "judge": {"name": self.critic.name, "max_turns": self.max_turns},
        }


_LOGGED = ("success_rate", "average_turns", "mean_critic_value")
"""What loggers get of each policy; the summary has everything."""

_NAMED = {"success_rate", "average_turns", "episodes", "success_rate_low", "success_rate_high"}
