from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.rollout.batching import balanced_parts


def test_the_next_most_expensive_item_goes_to_the_cheapest_part() -> None:
    # 9 | 7 -> the 5 joins the 7 (12), the 4 joins the 9 (13), the 2 joins the 12 (14).
    assert balanced_parts([2, 9, 4, 7, 5], 2) == [[1, 2], [0, 3, 4]]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.data())
def test_parts_partition_the_items_and_none_is_empty(costs: list[int], data: st.DataObject) -> None:
    num_parts = data.draw(st.integers(1, len(costs)))
    parts = balanced_parts(costs, num_parts)
    assert sorted(index for part in parts for index in part) == list(range(len(costs)))
    assert len(parts) == num_parts
    assert all(part == sorted(part) and part for part in parts)
    # Graham: the largest part exceeds the mean by less than one item.
    counted = [max(cost, 1) for cost in costs]
    largest = max(sum(counted[index] for index in part) for part in parts)
    assert largest <= sum(counted) / num_parts + max(counted)
