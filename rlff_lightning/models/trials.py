"""Try out what a layer of transformers' models computes, for models call different things alike."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def gives(compute: Callable[[], Any], *expected: Tensor) -> bool:
    """Tell whether a computation, which may be of anything, gives these tensors."""
    try:
        found = compute()
        return len(found) == len(expected) and all(
            torch.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(found, expected, strict=True)
        )
    except Exception:  # noqa: BLE001  # whatever it wants, it is something else
        return False


class Stub:
    """A module with other parts, for its own may be quantised or without weights."""

    def __init__(self, module: nn.Module, parts: dict[str, Any]) -> None:
        self.module, self.parts = module, parts

    def __getattr__(self, name: str) -> Any:
        return self.parts[name] if name in self.parts else getattr(self.module, name)
