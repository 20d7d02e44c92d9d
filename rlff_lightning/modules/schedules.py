"""An optimizer with its learning-rate schedule, as Lightning takes them."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def by_step(optimizer: Optimizer, factor: Callable[[int], float]) -> dict[str, Any]:
    """Let the learning rate follow ``factor`` of the optimizer step."""
    scheduler = LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
