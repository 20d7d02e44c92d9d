from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rlff_lightning.metrics.goal_completion import GoalCompletion
from rlff_lightning.metrics.reward import RewardQuality

NUM_ROWS = 23


def measure(rows: torch.Tensor) -> dict[str, float]:
    """Feed some rows of a fixed data set and compute over all processes there are."""
    generator = torch.Generator().manual_seed(0)
    is_success = torch.rand(NUM_ROWS, generator=generator) < 0.6
    num_turns = torch.randint(1, 6, (NUM_ROWS,), generator=generator)
    values = torch.rand(NUM_ROWS, 5, generator=generator) * 2 - 1
    outcomes = torch.randint(0, 5, (NUM_ROWS,), generator=generator)
    scores = torch.randn(NUM_ROWS, generator=generator)
    labels = scores + torch.randn(NUM_ROWS, generator=generator)
    errors = torch.rand(NUM_ROWS, generator=generator)
    context_ids = torch.arange(NUM_ROWS) % 4 + 2**40
    goal, quality = GoalCompletion(max_turns=5), RewardQuality()
    for batch in rows.split(4):
        mask = torch.arange(5) < num_turns[batch, None]
        goal.update(is_success[batch], num_turns[batch], values[batch], mask, outcomes[batch])
        quality.update(scores[batch], labels[batch], errors[batch], context_ids[batch])
    return goal.compute() | quality.compute()


def work(rank: int, folder: str, splits: list[list[torch.Tensor]]) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.save([measure(parts[rank]) for parts in splits], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_numbers_of_one_even_if_one_has_no_data(tmp_path: Path) -> None:
    rows = torch.arange(NUM_ROWS)
    splits = [[rows[::2], rows[1::2]], [rows, rows[:0]], [rows[:0], rows]]
    mp.spawn(work, args=(str(tmp_path), splits), nprocs=2)
    expected = measure(rows)
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            assert found == pytest.approx(expected, abs=1e-6)
