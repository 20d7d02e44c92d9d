"""What an optimizer step has to log: sums over its micro-batches and ranks, and its time."""

import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor

from rlff_lightning.functional.masked import masked_sum
from rlff_lightning.functional.policy_objective import ObjectiveTerms, PolicyLoss
from rlff_lightning.rollout.experience import Experience

Reduce = Callable[[Tensor], Tensor]
"""Brings a tensor of all ranks together, element by element."""

PER_TOKEN = (
    "train/kl",
    "train/entropy",
    "train/engine_mismatch",
    "train/clipped_low",
    "train/clipped_high",
    "train/capped",
    "train/ratio",
    "train/engine_ratio",
)
"""Means over the update's tokens; the KL only where there is a reference."""

PEAKS = ("train/ratio_max", "train/engine_ratio_max")
"""Largest of the update's tokens."""


class UpdateReport:
    """Collects one update at a time."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Tensor]] = []
        self._peaks: list[Tensor] = []
        self._seconds = 0.0
        self._started = 0.0
        self.num_tokens = 0.0
        """Completion tokens of the latest finished update, on all ranks."""

    def add(
        self,
        batch: Experience,
        terms: ObjectiveTerms,
        loss: PolicyLoss,
        *,
        old_logps: Tensor,
        entropy: Tensor,
    ) -> None:
        """Take in a micro-batch.

        Args:
            batch: What was trained on.
            terms: The objective's.
            loss: Their aggregate.
            old_logps: The trainer's at rollout, ``(B, T)``, nats.
            entropy: ``(B, T)``, nats.
        """
        mask, mismatch = batch.completion_mask, terms.mismatch
        count, none = mask.sum(), mask.new_zeros((), dtype=torch.float32)
        # Engine against the trainer at rollout: later updates move the policy, not the mismatch.
        gap = (old_logps - batch.sampling_logps).abs()[mask].sum()
        ratios = terms.surrogate.ratios
        engine_ratios = torch.ones_like(ratios) if mismatch is None else mismatch.ratios
        peaks = [torch.where(mask, values, 0.0).amax() for values in (ratios, engine_ratios)]
        self._peaks.append(torch.stack(peaks).detach().float())
        capped = none if mismatch is None else (mismatch.is_capped & mask).sum()
        dropped = none if mismatch is None else mismatch.is_dropped.sum()
        part = {
            "train/loss": loss.loss,
            "train/policy_loss": loss.policy_loss,
            "train/entropy": (entropy * mask).sum(),
            "train/engine_mismatch": gap,
            "train/clipped_low": (terms.surrogate.is_clipped_low & mask).sum(),
            "train/clipped_high": (terms.surrogate.is_clipped_high & mask).sum(),
            "train/capped": capped,
            "train/ratio": (ratios * mask).sum(),
            "train/engine_ratio": (engine_ratios * mask).sum(),
            "train/dropped": dropped,
            "tokens": count,
            "sequences": mask.new_tensor(len(mask), dtype=torch.float32),
        }
        if terms.kl is not None:
            # All ranks have a reference or none has.
            part["train/kl"] = masked_sum(terms.kl, mask)
        self._parts.append({name: value.detach().float() for name, value in part.items()})

    def close(
        self, reduce: Reduce, reduce_max: Reduce, gradient_norm: Tensor
    ) -> tuple[dict[str, Tensor], bool]:
        """End the update.

        Args:
            reduce: Adds up over ranks: every rank's part was divided by the whole window.
            reduce_max: Takes the largest over ranks.
            gradient_norm: Of this rank's gradients, a scalar.

        Returns:
            What to log, by log key, and whether the gradients of all ranks are finite.
        """
        names = list(self._parts[0])
        sums = torch.stack([torch.stack([part[n] for part in self._parts]).sum() for n in names])
        self._parts.clear()
        own = torch.cat([sums, gradient_norm.detach().to(sums).reshape(1)])
        *totals, gradient = reduce(own).unbind()
        window = dict(zip(names, totals, strict=True))
        tokens, sequences = window.pop("tokens"), window.pop("sequences")
        self.num_tokens = tokens.item()
        for name in [name for name in PER_TOKEN if name in window]:
            window[name] = window[name] / tokens.clamp(min=1)
        window["train/dropped"] = window["train/dropped"] / sequences
        peaks = reduce_max(torch.stack(self._peaks).amax(0)).unbind()
        self._peaks.clear()
        return window | dict(zip(PEAKS, peaks, strict=True)), bool(gradient.isfinite())

    def start_clock(self) -> None:
        """A micro-batch begins."""
        self._started = time.perf_counter()

    def stop_clock(self) -> None:
        """A micro-batch ends."""
        self._seconds += time.perf_counter() - self._started

    def take_seconds(self) -> float:
        """Give the seconds of the update that ended, and begin the next."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def peak_memory_mb(device: torch.device) -> float:
    """Measure the most memory held so far: a GPU's by torch, else the process's, MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
