"""Spread whole groups over micro-batches of about equal cost."""

import heapq
from collections.abc import Sequence


def balanced_parts(costs: Sequence[int], num_parts: int) -> list[list[int]]:
    """Split items into parts of nearly equal total cost, none empty.

    The next most expensive item goes to the cheapest part, an empty one first.

    Args:
        costs: Cost of each item, e.g. tokens; at least ``num_parts`` of them.
        num_parts: Parts.

    Returns:
        Indices of each part, ascending; the parts partition all items.

    Source: Graham 1969, longest processing time first: at most 4/3 of the best largest part.
    """
    heap = [(0, part) for part in range(num_parts)]
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    for index in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
        load, part = heapq.heappop(heap)
        parts[part].append(index)
        heapq.heappush(heap, (load + max(costs[index], 1), part))
    return [sorted(part) for part in parts]
