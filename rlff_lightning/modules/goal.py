"""Goal completion as `test`: policies converse with seekers, a critic judges."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader
from typing_extensions import override

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.agents.scripted.supporter import ScriptedSupporter
from rlff_lightning.agents.self_play import play
from rlff_lightning.data.records import record_loader
from rlff_lightning.data.shares import RankShare
from rlff_lightning.errors import UserError
from rlff_lightning.modules.goal_crisis import CrisisCheck
from rlff_lightning.modules.goal_figures import Part, PartFigures
from rlff_lightning.modules.goal_panel import Panel
from rlff_lightning.modules.goal_settings import MAIN, HeldOut, identify
from rlff_lightning.modules.goal_store import EpisodeStore, Played
from rlff_lightning.modules.goal_summary import summarise
from rlff_lightning.modules.goal_table import print_goal
from rlff_lightning.modules.unfinished import fingerprint
from rlff_lightning.seeds import derive_seed, run_seed
from rlff_lightning.simulation.transcripts import remove_rank_files, write_episodes, write_markdown


class GoalModule(LightningModule):
    """Play the same episodes with every policy and compare how often the goal is reached.

    A run that was stopped goes on where it was: finished batches are not played again, unless the
    policies, the people, the judges or the seed have changed.

    Args:
        policies: Supporters by name; all meet the same seekers with the same seeds.
        seeker: Plays the people.
        critic: Judges every turn; its name and hash are part of the result.
        num_episodes: Episodes per policy.
        max_turns: Supporter turns after which an episode fails; PPDPP's protocol has 8.
        batch_size: Episodes played at once, per process.
        num_shown: Dialogues of each policy written as Markdown.
        seed: Root of every draw; ``None`` takes the run's ``seed_everything``.
        held_out: A second judge and further people that no policy was trained against.
        crisis: Also answer openings of people in crisis, and report whether the replies point to
            human help; scripted supporters, which read a hidden state, are left out.
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
        held_out: HeldOut | None = None,
        crisis: bool = True,
    ) -> None:
        super().__init__()
        if not policies:
            raise UserError("GoalModule.policies must name a supporter, got none")
        if num_episodes < 1 or max_turns < 1:
            raise UserError("GoalModule.num_episodes and max_turns must be at least 1")
        self.policies = policies
        self.people = {MAIN: seeker, **(held_out.seekers if held_out else {})}
        second = [held_out.judge] if held_out and held_out.judge else []
        self.judges = [critic, *second]
        self.num_episodes = num_episodes
        self.max_turns = max_turns
        self.batch_size = batch_size
        self.num_shown = num_shown
        self.seed = run_seed(seed)
        self.checks = nn.ModuleList()
        self.parts: list[Part] = []
        for name, policy in policies.items():
            self.parts += [Part(name, people) for people in self.people]
            if crisis and not isinstance(policy, ScriptedSupporter):
                self.parts.append(Part(name, None))
        for part in self.parts:
            is_crisis = part.people is None
            check = CrisisCheck() if is_crisis else PartFigures(max_turns, len(self.judges))
            self.checks.append(check)
        self._done: dict[tuple[str, int], Played] = {}
        # Fewer episodes than processes may be left, and no step waits for the other processes.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @override
    def setup(self, stage: str) -> None:
        for check in self.checks:
            assert isinstance(check, CrisisCheck | PartFigures)
            check.reset()
        decisive = fingerprint(
            policies=self.policies,
            people=self.people,
            judges=self.judges,
            max_turns=self.max_turns,
            seed=self.seed,
        )
        self._store = EpisodeStore(self._folder, decisive)
        self._done = self._store.episodes()
        # Before another process writes its first batch.
        self.trainer.strategy.barrier()

    @property
    def _folder(self) -> Path:
        return Path(self.trainer.default_root_dir)

    @override
    def test_dataloader(self) -> list[DataLoader[int]]:
        seeds = [derive_seed(self.seed, "episode", number) for number in range(self.num_episodes)]
        left: list[Sequence[int]] = []
        for part, check in zip(self.parts, self.checks, strict=True):
            if isinstance(check, CrisisCheck):
                left.append(range(len(check.openings)))
                continue
            assert isinstance(check, PartFigures)
            known = {seed: self._done.get((part.key, seed)) for seed in seeds}
            if self.trainer.is_global_zero:
                check.update([played for played in known.values() if played])
            left.append([seed for seed in seeds if not known[seed]])
        loaders = [self._loader(items) for items in left]
        # A process without any batch would leave out the end of the epoch, where figures are made.
        if max(map(len, left)) < self.trainer.world_size:
            loaders.append(self._loader([0] * self.trainer.world_size))
        return loaders

    def _loader(self, items: Sequence[int]) -> DataLoader[int]:
        # The Trainer's own sampler would repeat episodes to give every rank as many.
        share = RankShare(items, num_replicas=self.trainer.world_size, rank=self.global_rank)
        return record_loader(items, self.batch_size, sampler=share)

    @override
    def on_test_start(self) -> None:
        agents: list[Supporter | Seeker | Critic] = [*self.policies.values(), *self.people.values()]
        for agent in (*agents, *self.judges):
            agent.start()

    @override
    def test_step(self, batch: Sequence[int], batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx == len(self.parts):
            return
        part, check = self.parts[dataloader_idx], self.checks[dataloader_idx]
        for name, policy in self.policies.items():
            # One engine at a time.
            if name == part.policy:
                break
            policy.close()
        supporter = self.policies[part.policy]
        if isinstance(check, CrisisCheck):
            check.update(batch, supporter, self.seed)
            return
        assert isinstance(check, PartFigures)
        assert part.people is not None
        seeker, panel = self.people[part.people], Panel(self.judges)
        episodes = play(
            seeker.open(batch), Cast(supporter, seeker, panel), max_turns=self.max_turns
        )
        played = [Played(episode, panel.courses(episode.conversation)) for episode in episodes]
        self._store.keep(part.key, batch, played, self.global_rank)
        check.update(played)

    @override
    def on_test_epoch_end(self) -> None:
        self._clear_old_files()
        figures, agreements, crisis = {}, {}, {}
        for part, check in zip(self.parts, self.checks, strict=True):
            if isinstance(check, CrisisCheck):
                crisis[part.policy] = check.compute()
                check.write(self._folder / "crisis" / f"{part.policy}-{self.global_rank}.jsonl")
                continue
            assert isinstance(check, PartFigures)
            figures[part] = check.compute()
            if check.agreement is not None:
                agreements[part] = check.agreement.compute()
            self._write(part, check)
        judges = [identify(judge) for judge in self.judges]
        protocol = {
            "max_turns": self.max_turns,
            "episodes": self.num_episodes,
            "seed": self.seed,
        }
        summary = summarise(figures, agreements, crisis, judges, protocol)
        self._log(summary["policies"])
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            text = json.dumps(summary, indent=1)
            (self._folder / "summary.json").write_text(text + "\n", encoding="utf-8")
            self._store.clear()
            if self.trainer.test_loop.verbose:
                print_goal(summary)
                # The Trainer would print the same figures again for each of its loaders.
                self.trainer.test_loop.verbose = False

    def _clear_old_files(self) -> None:
        if self.trainer.is_global_zero:
            for name in ("episodes", "crisis"):
                remove_rank_files(self._folder / name)
            for file in (self._folder / "dialogues").rglob("*.md"):
                file.unlink()
        self.trainer.strategy.barrier()

    def _log(self, policies: dict[str, dict[str, Any]]) -> None:
        for name, row in policies.items():
            self.log_dict({f"test/{name}/{key}": row[key] for key in _LOGGED})
            if "crisis" in row:
                points = row["crisis"]["points_to_help"]
                self.log(f"test/{name}/crisis_points_to_help", points)

    def _write(self, part: Part, check: PartFigures) -> None:
        name = part.policy if part.people == MAIN else f"{part.policy}--{part.people}"
        write_episodes(
            check.episodes, self._folder / "episodes" / f"{name}-{self.global_rank}.jsonl"
        )
        if self.trainer.is_global_zero:
            shown = check.episodes[: self.num_shown]
            write_markdown(shown, self._folder / "dialogues" / f"{name}.md", name)

    @override
    def teardown(self, stage: str) -> None:
        for policy in self.policies.values():
            policy.close()
        for seeker in self.people.values():
            seeker.close()
        for judge in self.judges:
            judge.close()


_LOGGED = ("success_rate", "average_turns", "mean_critic_value")
"""What loggers get of each policy; the summary has everything."""
