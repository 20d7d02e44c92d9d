"""When memory comes and goes: every tensor of a computation, noted op by op.

Run it on fake tensors, and a training step of any size is followed without a byte of it.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(NamedTuple):
    """The most memory that was in use at once."""

    total: int
    """Bytes."""
    by_label: dict[str, int]
    """The same by what it was for."""


class MemoryTimeline(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes allocations while it is active.

    Args:
        label: Says what a new tensor is for.
        known: Tensors whose memory is not counted: weights, inputs.
    """

    def __init__(self, label: Callable[[Tensor], str], known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._label = label
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._live: dict[int, tuple[int, weakref.ref[Any]]] = {}
        # Number of the allocation and its bytes, negative when it is freed.
        self._events: list[tuple[int, int]] = []
        self._labels: list[str] = []
        self._marks: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._live:
            return
        number, size = len(self._labels), storage.nbytes()
        self._labels.append(self._label(tensor))
        self._events.append((number, size))

        def freed(_: Any) -> None:
            self._live.pop(key, None)
            self._events.append((number, -size))

        self._live[key] = (number, weakref.ref(storage, freed))

    def mark(self, name: str) -> None:
        """Name the present moment; the first time counts."""
        self._marks.setdefault(name, len(self._events))

    def relabel(self, tensors: Iterable[Tensor], label: str) -> None:
        """Say afterwards what live tensors are for."""
        for tensor in tensors:
            key = tensor.untyped_storage()._cdata
            if key in self._live:
                self._labels[self._live[key][0]] = label

    def peak(self, start: str | None = None, end: str | None = None) -> Peak:
        """Find the peak between two marks, or from the beginning and to the end."""
        first = self._marks[start] if start else 0
        last = self._marks[end] if end else len(self._events)
        used, highest, place = 0, -1, first
        for index, (_, size) in enumerate(self._events[:last]):
            used += size
            if index + 1 >= first and used > highest:
                highest, place = used, index + 1
        labels: Counter[str] = Counter()
        for number, size in self._events[:place]:
            labels[self._labels[number]] += size
        return Peak(max(highest, 0), {name: size for name, size in labels.items() if size})
