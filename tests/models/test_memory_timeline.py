import torch

from rlff_lightning.models.memory_timeline import MemoryTimeline


def everything(_: torch.Tensor) -> str:
    return "all"


def test_the_peak_is_the_most_that_lives_at_once() -> None:
    with MemoryTimeline(everything) as timeline:
        first = torch.zeros(1000)  # 4000 bytes
        second = torch.zeros(500)  # 6000 together: the peak
        del first
        third = torch.zeros(700)  # 2000 + 2800
    assert timeline.peak().total == 6000
    assert len(second) + len(third) == 1200


def test_views_and_changes_in_place_take_nothing() -> None:
    with MemoryTimeline(everything) as timeline:
        whole = torch.zeros(100, 10)
        whole.view(-1)[:500].add_(1)
        whole.t().mul_(2)
    assert timeline.peak().total == 4000


def test_what_was_there_before_does_not_count() -> None:
    weight = torch.ones(100, 100)
    with MemoryTimeline(everything, [weight]) as timeline:
        rows = weight[:50] @ weight  # 50 * 100 * 4 bytes
    assert timeline.peak().total == 20_000
    assert rows.shape == (50, 100)


def test_a_window_begins_with_what_is_left_from_before() -> None:
    with MemoryTimeline(everything) as timeline:
        kept = torch.zeros(10)
        torch.zeros(1000).sum()
        timeline.mark("half")
        later = torch.zeros(20)
    # The sum of the first half is gone; 40 bytes are kept and 80 come.
    assert timeline.peak("half").total == 120
    assert timeline.peak(None, "half").total >= 4040
    assert len(kept) + len(later) == 30


def test_labels_may_be_told_afterwards() -> None:
    def by_width(tensor: torch.Tensor) -> str:
        return "wide" if tensor.dim() == 2 else "else"

    with MemoryTimeline(by_width) as timeline:
        wide, narrow = torch.zeros(10, 10), torch.zeros(10)
    timeline.relabel([narrow], "gradients")
    assert timeline.peak().by_label == {"wide": 400, "gradients": 40}
    assert wide.shape == (10, 10)
