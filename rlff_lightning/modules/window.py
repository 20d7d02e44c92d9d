"""Normalise a loss by all that an optimizer step counts: every micro-batch of every rank."""

from collections.abc import Iterable

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from rlff_lightning.models.sharding import local


class AccumulationWindow:
    """The micro-batches between two optimizer steps.

    A step's loss is the sum over its window divided by what the window counts, which is known only
    when it is complete: ``training_step`` gives the sum, ``on_before_optimizer_step`` divides the
    gradients. So neither micro-batches, nor accumulation, nor ranks change a loss or a gradient.
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, trainer: Trainer, loss_sum: Tensor, *counted: Tensor) -> Tensor:
        """Take in a micro-batch.

        Args:
            trainer: Whose accumulation and ranks are undone.
            loss_sum: The micro-batch's summed loss, a scalar with gradient.
            *counted: Scalars to be summed over the window.

        Returns:
            What ``training_step`` must return: Lightning divides it by the window's
            micro-batches, and averages its gradient over the ranks.
        """
        self._sums.append(torch.stack([loss_sum.detach(), *counted]))
        return loss_sum * trainer.accumulate_grad_batches * trainer.world_size

    def close(self, trainer: Trainer) -> tuple[Tensor, ...]:
        """Sum loss and counts over the window and all ranks, and begin the next window."""
        own = torch.stack(self._sums).sum(0)
        self._sums.clear()
        total: Tensor = trainer.strategy.reduce(own, reduce_op="sum")
        return total.unbind()


def own_gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Measure this process's part of all gradients: not finite as soon as one entry is not.

    Args:
        parameters: What is trained; some may have no gradient.

    Returns:
        The Euclidean norm, a scalar; of sharded gradients, that of the shards held here.
    """
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    return nn.utils.get_total_norm(gradients)


def divide_gradients(parameters: Iterable[nn.Parameter], size: Tensor) -> None:
    """Divide every gradient there is, before it is clipped; of a sharded one, each its part."""
    for parameter in parameters:
        if parameter.grad is not None:
            local(parameter.grad).div_(size)
