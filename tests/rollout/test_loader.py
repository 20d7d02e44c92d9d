import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.dialogue.chat import ChatFormat
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.errors import StoppedRun, UserError
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.rollout.across_ranks import across_ranks
from rlff_lightning.rollout.contexts import LiveConversations
from rlff_lightning.rollout.experience import Experience
from rlff_lightning.rollout.group import Group
from rlff_lightning.rollout.learner import Learner
from rlff_lightning.rollout.loader import ExperienceLoader
from rlff_lightning.rollout.scorers import RepetitionScorer, Sampled, Scorer
from rlff_lightning.rollout.settings import RolloutSettings

PROMPTS, SIZE = 4, 3


class Listener(Learner):
    """Learns nothing, and remembers what the loop asked of it."""

    def __init__(self) -> None:
        self.synced: list[int] = []

    def sync(self, iteration: int, probes: Sequence[list[int]]) -> dict[str, float]:
        self.synced.append(iteration)
        return {}

    def window_size(self, groups: Sequence[Group]) -> Tensor:
        return torch.tensor(float(sum(len(group.completions) for group in groups)))

    def finish(self, batch: Experience) -> Experience:
        return batch


class LengthScorer(Scorer):
    name = "length"

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        return torch.tensor([float(len(sample.text)) for sample in samples])


@pytest.fixture(scope="module")
def engine(pocket_folder: Path) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(str(pocket_folder), max_model_len=512)
    yield engine
    engine.close()


def loader_of(
    engine: TransformersEngine, *, num_parts: int = 1, seed: int = 0, **settings: float
) -> ExperienceLoader:
    sizes = {"prompts": PROMPTS, "group_size": SIZE, "max_tokens": 8, **settings}
    return ExperienceLoader(
        Listener(),
        engine,
        ChatFormat(Backbone(engine.model_name_or_path).tokenizer()),
        LiveConversations(ScriptedSeeker(), ScriptedCritic(), max_turns=2),
        [LengthScorer(0.1), RepetitionScorer(2)],
        RolloutSettings(**sizes),
        num_parts=num_parts,
        seed=seed,
    )


class Sleeper(TransformersEngine):
    """An engine that lends its memory, and remembers when."""

    enable_sleep = True

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.calls: list[str] = []

    def generate(self, *args: Any) -> Any:
        self.calls.append("generate")
        return super().generate(*args)

    def sleep(self) -> None:
        self.calls.append("sleep")

    def wake(self) -> None:
        self.calls.append("wake")


def test_the_engine_sleeps_while_the_trainer_updates_and_cannot_where_it_samples_ahead(
    pocket_folder: Path,
) -> None:
    engine = Sleeper(str(pocket_folder), max_model_len=512)
    loader = loader_of(engine, updates=2, iterations_per_epoch=2)
    for _ in loader:
        engine.calls.append("update")
    iteration = ["wake", "generate", "sleep", "update", "update"]
    assert engine.calls == iteration * 2
    with pytest.raises(UserError, match="enable_sleep to false"):
        loader_of(engine, ahead=True)


def rows(batches: Sequence[Experience]) -> list[tuple[tuple[int, ...], tuple[int, ...], float]]:
    """Every completion of some batches with its prompt and its advantage, padding left out."""
    found = []
    for batch in batches:
        size = len(batch.completion_ids) // len(batch.prompt_ids)
        for row, (ids, mask) in enumerate(
            zip(batch.completion_ids, batch.completion_mask, strict=True)
        ):
            prompt = batch.prompt_ids[row // size][batch.prompt_mask[row // size]]
            advantage = batch.advantages[row].item()
            found.append((tuple(prompt.tolist()), tuple(ids[mask].tolist()), advantage))
    return found


def same(one: Experience, other: Experience) -> bool:
    return all(
        a is b is None or torch.equal(a, b)  # type: ignore[arg-type]
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(("updates", "num_parts"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_the_batches_of_an_iteration_are_its_samples_once_each_in_whole_groups(
    updates: int, num_parts: int, engine: TransformersEngine
) -> None:
    loader = loader_of(engine, updates=updates, num_parts=num_parts)
    batches = list(loader)
    assert len(batches) == len(loader) == updates * num_parts
    sampled = [
        (tuple(group.prompt), completion.token_ids, pytest.approx(advantage))
        for group in loader.groups
        for completion, advantage in zip(group.completions, group.advantages, strict=True)
    ]
    assert len(sampled) == PROMPTS * SIZE
    found = rows(batches)
    assert sorted(found) == sorted(sampled)
    # Advantages of a group sum to 0: they do only if siblings are together and adjacent.
    for start in range(0, len(found), SIZE):
        assert len({prompt for prompt, _, _ in found[start : start + SIZE]}) == 1
        assert sum(a for _, _, a in found[start : start + SIZE]) == pytest.approx(0, abs=1e-5)
    # Each update is divided by its own completions: all rows over the number of updates.
    assert {batch.window.item() for batch in batches} == {PROMPTS * SIZE / updates}


class Ventriloquist(TransformersEngine):
    """Adds a happy seeker to whatever is sampled, and ends half of it in a sentence."""

    def generate(self, *args: Any) -> Any:
        said = "I hear you. Tell me"
        return [
            replace(found, text=f"{said} more.\nSeeker: I am well." if i % 2 else said)
            for i, found in enumerate(super().generate(*args))
        ]


def test_what_a_policy_says_for_the_seeker_or_leaves_unfinished_is_trained_on_but_not_heard(
    pocket_folder: Path,
) -> None:
    engine = Ventriloquist(str(pocket_folder), max_model_len=512)
    loader = loader_of(engine, max_tokens=1)
    batches = list(loader)
    samples = [sample for group in loader.groups for sample in group.samples]
    heard = {(sample.text.endswith("well."), sample.reply.text) for sample in samples}
    # One token never ends a sample: the words behind the last full stop are dropped.
    assert heard == {(True, "I hear you. Tell me more."), (False, "I hear you.")}
    assert loader.report["rollout/tidied"] == 1.0
    assert sum(int(b.completion_mask.sum()) for b in batches) == len(samples)
    engine.close()


def test_the_sampled_logps_stand_beside_the_sampled_tokens(engine: TransformersEngine) -> None:
    loader = loader_of(engine)
    [batch] = loader
    expected = {
        completion.token_ids: completion.logps
        for group in loader.groups
        for completion in group.completions
    }
    for ids, mask, logps in zip(
        batch.completion_ids, batch.completion_mask, batch.sampling_logps, strict=True
    ):
        known = expected[tuple(ids[mask].tolist())]
        assert logps[mask].tolist() == pytest.approx(known, abs=1e-4)


def test_rewards_are_weighted_sums_and_advantages_measure_them_within_the_group(
    engine: TransformersEngine,
) -> None:
    loader = loader_of(engine)
    list(loader)
    group = loader.groups[0]
    lengths = [0.1 * len(sample.text) for sample in group.samples]
    assert group.rewards["length"] == pytest.approx(lengths)
    totals = [sum(values) for values in zip(*group.rewards.values(), strict=True)]
    mean = sum(totals) / SIZE
    std = (sum((total - mean) ** 2 for total in totals) / (SIZE - 1)) ** 0.5
    expected = [(total - mean) / (std + 1e-4) for total in totals]
    assert group.advantages == pytest.approx(expected, abs=1e-4)


def test_an_epoch_is_its_iterations_and_the_next_epoch_goes_on(engine: TransformersEngine) -> None:
    loader = loader_of(engine, updates=2, iterations_per_epoch=2)
    assert len(list(loader)) == len(loader) == 4
    assert len(list(loader)) == 4
    assert loader.learner.synced == [0, 1, 2, 3]  # type: ignore[attr-defined]


def test_weights_are_synced_only_when_all_batches_of_an_iteration_are_used(
    engine: TransformersEngine,
) -> None:
    loader = loader_of(engine, updates=2, iterations_per_epoch=2)
    synced = []
    for _ in loader:
        synced.append(list(loader.learner.synced))  # type: ignore[attr-defined]
    assert synced == [[0], [0], [0, 1], [0, 1]]


@pytest.mark.parametrize("used", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "passes", [{"updates": 2}, {"epochs": 2}, {"updates": 2, "ahead": True}], ids=str
)
def test_a_loader_restored_from_a_file_without_pickle_goes_on_with_the_same_batches(
    passes: dict[str, int], used: int, engine: TransformersEngine
) -> None:
    sizes = {"iterations_per_epoch": 2, **passes}
    loader = loader_of(engine, **sizes)
    # Two epochs of four batches: 1, 3 and 5 stop in the middle of an iteration.
    batches = [*loader, *loader]
    interrupted = loader_of(engine, **sizes)
    stream = iter([*islice(interrupted, min(used, 4))])
    assert all(same(a, b) for a, b in zip(stream, batches, strict=False))
    if used > 4:
        next(iter(interrupted))
    file = io.BytesIO()
    torch.save(interrupted.state_dict(), file)
    file.seek(0)

    resumed = loader_of(engine, **sizes)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    rest = [*resumed] if used > 4 or used == 4 else [*resumed, *resumed]
    assert len(rest) == len(batches) - used
    assert all(same(a, b) for a, b in zip(rest, batches[used:], strict=True))


def test_every_pass_over_an_iteration_gives_the_same_batches(engine: TransformersEngine) -> None:
    loader = loader_of(engine, updates=2, epochs=2)
    batches = list(loader)
    assert len(batches) == len(loader) == 4
    assert same(batches[0], batches[2])
    assert same(batches[1], batches[3])
    assert not same(batches[0], batches[1])
    assert loader.learner.synced == [0]  # type: ignore[attr-defined]


def test_ahead_the_next_iteration_is_sampled_by_the_weights_that_this_one_begins_with(
    engine: TransformersEngine,
) -> None:
    sizes = {"updates": 2, "iterations_per_epoch": 2}
    ahead = loader_of(engine, **sizes, ahead=True)
    found, synced, stale = [], [], []
    for batch in ahead:
        found.append(batch)
        synced.append(list(ahead.learner.synced))  # type: ignore[attr-defined]
        stale.append(ahead.report["rollout/staleness"])
    assert synced == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2]]
    assert stale == [0, 0, 1, 1]
    ahead.close()
    # Nothing was learned here, so that stale weights are the current ones.
    assert all(same(a, b) for a, b in zip(found, loader_of(engine, **sizes), strict=True))


class Referee(Listener):
    """Knows a reference half a nat below the trainer, and an engine a quarter above it."""

    def finish(self, batch: Experience) -> Experience:
        old_logps = batch.sampling_logps - 0.25
        return batch._replace(old_logps=old_logps, ref_logps=old_logps - 0.5)


def test_the_kl_to_the_reference_is_a_term_of_the_reward(engine: TransformersEngine) -> None:
    plain, shaped = (loader_of(engine, num_parts=2, reward_kl_coef=coef) for coef in (0.0, 0.1))
    shaped.learner = Referee()
    [*_], batches = list(plain), list(shaped)
    for before, group in zip(plain.groups, shaped.groups, strict=True):
        # k1 sums to 0.5 a token, and a token costs 0.1 * 0.5.
        costs = [-0.05 * len(completion.token_ids) for completion in group.completions]
        assert group.rewards["kl"] == pytest.approx(costs, abs=1e-5)
        assert group.rewards["length"] == before.rewards["length"]
        assert "kl" not in before.rewards
    given = sorted(advantage for batch in batches for advantage in batch.advantages.tolist())
    assert given == pytest.approx(sorted(a for group in shaped.groups for a in group.advantages))
    assert shaped.report["rollout/reward/kl"] < 0


class EvenScorer(Scorer):
    name = "even"

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        return torch.ones(len(samples))


def test_groups_of_equal_rewards_are_counted_as_flat_whatever_their_kl(
    engine: TransformersEngine,
) -> None:
    loader = loader_of(engine, reward_kl_coef=0.1)
    loader.learner, loader.scorers = Referee(), [EvenScorer()]
    list(loader)
    # Completions of different lengths have different KLs, and so advantages.
    assert any(len(set(group.advantages)) > 1 for group in loader.groups)
    assert loader.report["rollout/flat_groups"] == 1


class BlindReferee(Referee):
    def finish(self, batch: Experience) -> Experience:
        done = super().finish(batch)
        return done._replace(ref_logps=batch.sampling_logps * torch.nan)


def test_a_kl_in_the_reward_that_is_no_number_stops_the_run(engine: TransformersEngine) -> None:
    loader = loader_of(engine, reward_kl_coef=0.1)
    loader.learner = BlindReferee()
    with pytest.raises(StoppedRun, match="The KL to the reference gave 12 of 12 completions"):
        next(iter(loader))


def test_another_seed_samples_otherwise(engine: TransformersEngine) -> None:
    first, other = (rows(list(loader_of(engine, seed=seed))) for seed in (0, 1))
    assert first != other


def test_a_checkpoint_of_two_processes_lets_one_begin_a_new_iteration(
    engine: TransformersEngine,
) -> None:
    loader = loader_of(engine)
    first = next(iter(loader))
    state = loader.state_dict()
    other = loader_of(engine)
    other.load_state_dict({"ranks": state["ranks"] * 2})
    # Versions of the engine's weights go on; what the two had sampled is not trained on.
    assert (other.iteration, other.sampler.number) == (1, 1)
    new = next(iter(other))
    assert other.iteration == 2
    assert rows([new]) != rows([first])


@pytest.mark.parametrize("taken", range(9))
def test_an_epoch_that_another_number_of_processes_began_loses_no_batch(
    engine: TransformersEngine, taken: int
) -> None:
    # Two iterations of two batches are an epoch: all places in one, and its end.
    settings = {"updates": 2, "iterations_per_epoch": 2, "max_tokens": 2}
    loader = loader_of(engine, **settings)
    assert len(list(islice(loader, taken))) == min(taken, 4)
    if taken > 4:
        assert len(list(islice(loader, taken - 4))) == taken - 4
    other = loader_of(engine, **settings)
    other.load_state_dict({"ranks": [loader.state_dict()["ranks"][0]] * 2})
    left = 4 - taken % 4
    assert [len(list(other)) for _ in range(2)] == [left, 4]
    # The next life has the first one's number of processes again.
    last = loader_of(engine, **settings)
    last.load_state_dict(other.state_dict())
    assert len(list(islice(last, 1))) == 1
    again = loader_of(engine, **settings)
    again.load_state_dict({"ranks": last.state_dict()["ranks"] * 2})
    assert len(list(again)) == 3


@pytest.mark.parametrize(
    ("settings", "num_parts", "line"),
    [
        ({"updates": 3}, 1, "multiple of updates=3"),
        ({"updates": 2}, 4, "accumulate_grad_batches=4, got 4"),
        ({"group_size": 1}, 1, "group_size must be at least 2"),
        ({"prompts": 0}, 1, "prompts must be at least 1"),
        ({"epochs": 0}, 1, "epochs must be at least 1"),
        ({"reward_kl_coef": -1}, 1, "reward_kl_coef must be at least 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    settings: dict[str, int], num_parts: int, line: str, engine: TransformersEngine
) -> None:
    with pytest.raises(UserError, match=line):
        loader_of(engine, num_parts=num_parts, **settings)


class BrokenScorer(LengthScorer):
    """Has no number for the second completion."""

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        scores = super().score(samples)
        scores[1] = torch.nan
        return scores


def test_a_reward_that_is_no_number_stops_the_run_and_names_its_scorer(
    engine: TransformersEngine,
) -> None:
    loader = loader_of(engine)
    loader.scorers = [BrokenScorer()]
    with pytest.raises(StoppedRun, match="length gave 1 of 12 completions of iteration 0"):
        next(iter(loader))


def test_log_probabilities_of_the_engine_that_are_no_numbers_stop_the_run(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = engine.generate

    def broken(*args: Any) -> Any:
        first, *rest = sample(*args)
        return [replace(first, logps=(torch.nan, *first.logps[1:])), *rest]

    loader = loader_of(engine)
    monkeypatch.setattr(engine, "generate", broken)
    with pytest.raises(StoppedRun, match="1 of 12 completions are not finite"):
        next(iter(loader))


def test_what_an_iteration_has_to_log_outlasts_a_stop_in_its_middle(
    engine: TransformersEngine,
) -> None:
    loader = loader_of(engine, updates=2)
    next(iter(loader))
    resumed = loader_of(engine, updates=2)
    resumed.load_state_dict(loader.state_dict())
    next(iter(resumed))
    assert resumed.report == loader.report
    assert "rollout/reward" in resumed.report


def test_reports_of_all_processes_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = torch.randn(2, 500, generator=torch.Generator().manual_seed(0)) + torch.tensor(
        [[0.0], [3.0]]
    )
    reports = [
        {
            "rollout/reward": own.mean().item(),
            "rollout/reward_std": own.std().item(),
            "rollout/reward/format": own.mean().item() / 2,
            "rollout/reward_std/format": own.std().item() / 2,
            "rollout/tokens": 10.0 + i,
            "rollout/truncated": 0.2 * i,
            "time/generate": 1.0 + i,
        }
        for i, own in enumerate(rewards)
    ]
    monkeypatch.setattr("rlff_lightning.rollout.across_ranks.of_all_ranks", lambda _: reports)
    found = across_ranks(reports[0])
    assert found["rollout/reward"] == pytest.approx(rewards.mean().item())
    assert found["rollout/reward_std"] == pytest.approx(rewards.std().item(), rel=2e-3)
    assert found["rollout/reward_std/format"] == pytest.approx(rewards.std().item() / 2, rel=2e-3)
    assert found["rollout/tokens"] == 21
    assert found["rollout/truncated"] == pytest.approx(0.1)
    assert found["time/generate"] == 2
