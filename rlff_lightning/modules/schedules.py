"""An optimizer with its learning-rate schedule, as Lightning takes them."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rlff_lightning.errors import UserError


def check_optimizer(owner: object) -> None:
    """Refuse a module's optimizer settings before anything is built.

    Raises:
        UserError: If ``learning_rate`` or ``weight_decay`` is below 0.
    """
    for name in ("learning_rate", "weight_decay"):
        value = getattr(owner, name)
        if value < 0:
            raise UserError(f"{type(owner).__name__}.{name} must be at least 0, got {value!r}")


def by_step(optimizer: Optimizer, factor: Callable[[int], float]) -> dict[str, Any]:
    """Let the learning rate follow ``factor`` of the optimizer step."""
    scheduler = LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
