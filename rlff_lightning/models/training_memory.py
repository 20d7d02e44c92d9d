"""What one micro-batch of training takes beside weights: the real code, run on fake tensors.

Deep models are followed at two small depths; each moment of the pass grows linearly with depth.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rlff_lightning.functional.log_probs import (
    ACCELERATOR_CHUNK_ELEMENTS,
    CPU_CHUNK_ELEMENTS,
    MIN_CHUNK_ROWS,
    token_logps,
)
from rlff_lightning.models.backbone import LanguageModel
from rlff_lightning.models.group_inputs import GroupInputs, Read, Sharing, group_inputs
from rlff_lightning.models.group_logps import groups_per_pass
from rlff_lightning.models.memory_timeline import MemoryTimeline, Peak
from rlff_lightning.models.output_head import head_replaced, output_head

DEPTHS = (3, 5)
"""Decoder layers of the two models that are followed, with one at least between first and last."""
Precision = Literal["32-true", "bf16-mixed", "bf16-true"]
Kept = Literal["none", "forward", "always"]
"""How long gradients of an earlier backward pass stay: Lightning frees those of the last update
between forward and backward, and in an accumulation window never."""
_WINDOWS = ((None, "forward"), ("forward", "head"), ("head", "first layer"), ("first layer", None))
"""Forward, the output head's backward, through the layers, and from the first layer to the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Groups of one forward and backward pass, at their greatest length."""

    groups: int
    """Contexts, N."""
    group_size: int
    """Replies to each, G."""
    prompt_tokens: int
    """Of each context, P."""
    reply_tokens: int
    """Of each reply, T."""
    sharing: Sharing = "padded"
    """Whether a group's context is computed once; ``auto`` as on a CPU."""


class Followed(NamedTuple):
    """Memory of a pass beside weights, gradients of earlier micro-batches and optimizer, bytes."""

    gradients: int
    """Of the trained weights, at the peak."""
    logits: int
    """Chunks of logits, at the peak."""
    activations: int
    """All else at the peak: what backward needs, and what is being computed."""

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.gradients + self.logits + self.activations


def chunk_rows(vocab_size: int, device: str) -> int:
    """Rows whose logits exist at once on a device, as ``token_logps`` chooses them."""
    elements = CPU_CHUNK_ELEMENTS if device == "cpu" else ACCELERATOR_CHUNK_ELEMENTS
    return max(MIN_CHUNK_ROWS, elements // vocab_size)


def follow_training(
    build: Callable[[int | None], LanguageModel],
    batch: MicroBatch,
    *,
    num_layers: int,
    precision: Precision = "32-true",
    device: str = "cpu",
    in_passes: bool = False,
    kept: Kept = "none",
) -> Followed:
    """Follow the memory of one forward and backward pass.

    peak(L) = max over windows of a_w + b_w L

    Args:
        build: Builds the model without weights with so many layers, or all of them.
        batch: What it computes.
        num_layers: Decoder layers of the whole model, L.
        precision: Of the arithmetic.
        device: Type of device that is meant, which decides the size of chunks.
        in_passes: Groups are read as ``group_logps`` does on a CPU where the model is whole.
        kept: How long gradients exist that were there before; they are counted as gradients.

    Returns:
        The peak by what it is for.
    """
    if num_layers <= max(DEPTHS):
        peaks = _follow(build(None), batch, precision, device, in_passes, kept)
        return _parts(max(peaks, key=lambda peak: peak.total))
    low, high = (
        _follow(build(depth), batch, precision, device, in_passes, kept) for depth in DEPTHS
    )
    windows = [_deeper(a, b, num_layers) for a, b in zip(low, high, strict=True)]
    return _parts(max(windows, key=lambda peak: peak.total))


def follow_scoring(
    build: Callable[[int | None], LanguageModel],
    batch: MicroBatch,
    *,
    num_layers: int,
    precision: Precision,
) -> int:
    """Follow one pass without gradient; its peak does not grow with depth.

    Args:
        build: As in ``follow_training``, a model without output head.
        batch: What it scores.
        num_layers: Decoder layers of the whole model.
        precision: Of the arithmetic.

    Returns:
        Bytes beside the weights.
    """
    # The last layer may compute less than those before it.
    model = _with_precision(build(min(num_layers, 2)), precision)
    inputs = group_inputs(model, batch.sharing, *_tokens(batch), read="last").inputs
    with _faked(model, inputs) as (given, timeline), torch.no_grad():  # noqa: SIM117
        with _arithmetic(precision), timeline:
            model(**given, use_cache=False)
    return timeline.peak().total


def _deeper(low: Peak, high: Peak, num_layers: int) -> Peak:
    first, second = DEPTHS
    steps = (num_layers - second) / (second - first)
    labels = {*low.by_label, *high.by_label}
    parts = {}
    for label in labels:
        a, b = low.by_label.get(label, 0), high.by_label.get(label, 0)
        parts[label] = max(int(b + steps * (b - a)), 0)
    return Peak(int(high.total + steps * (high.total - low.total)), parts)


def _parts(peak: Peak) -> Followed:
    gradients, logits = (peak.by_label.get(name, 0) for name in ("gradients", "logits"))
    return Followed(gradients, logits, max(peak.total - gradients - logits, 0))


def _follow(
    model: LanguageModel,
    batch: MicroBatch,
    precision: Precision,
    device: str,
    in_passes: bool,
    kept: Kept,
) -> list[Peak]:
    model = _with_precision(model, precision)
    has_head = model.get_output_embeddings() is not None
    num_tokens = batch.groups * (batch.prompt_tokens + batch.group_size * batch.reply_tokens)
    step = groups_per_pass(batch.groups, num_tokens) if in_passes else batch.groups
    sizes = [min(step, batch.groups - start) for start in range(0, batch.groups, step)]
    passes: list[GroupInputs] = []
    inputs: dict[str, Any] = {}
    for number, size in enumerate(sizes):
        tokens = _tokens(replace(batch, groups=size))
        read: Read = "predictors" if has_head else "last"
        passes.append(group_inputs(model, batch.sharing, *tokens, read=read))
        own = passes[-1].inputs | {"tokens": tokens[2].flatten()}
        inputs |= {f"{number}.{name}": value for name, value in own.items()}
    with _faked(model, inputs) as (faked, timeline):
        _watch_first_layer(model, timeline)
        if kept == "always":
            for weight in _trained(model):
                weight.grad = torch.empty_like(weight)
        with timeline:
            with _arithmetic(precision):
                loss = torch.zeros(())
                for number, groups in enumerate(passes):
                    given = {name: faked[f"{number}.{name}"] for name in groups.inputs}
                    targets = faked[f"{number}.tokens"]
                    loss = loss + (
                        _score(model, given, groups, targets, timeline, device)
                        if has_head
                        else _read(model, given, groups, timeline)
                    )
            timeline.mark("forward")
            loss.backward()  # type: ignore[no-untyped-call]
            # A backward pass need not come there: below, nothing may be trained.
            timeline.mark("head")
            timeline.mark("first layer")
        gradients = [weight.grad for weight in _trained(model) if weight.grad is not None]
        timeline.relabel(gradients, "gradients")
    peaks = [timeline.peak(start, end) for start, end in _WINDOWS]
    size = sum(weight.nbytes for weight in gradients)
    beside = {"none": 0, "forward": 1, "always": len(peaks)}[kept]
    return [
        Peak(p.total + size, p.by_label | {"gradients": p.by_label.get("gradients", 0) + size})
        for p in peaks[:beside]
    ] + peaks[beside:]


def _score(
    model: LanguageModel,
    given: dict[str, Any],
    groups: GroupInputs,
    targets: Tensor,
    timeline: MemoryTimeline,
    device: str,
) -> Tensor:
    """Compute as ``group_logps`` does, whose masks would need real values."""
    head = output_head(model)

    def score(hidden: Tensor) -> Tensor:
        hidden.register_hook(lambda _: timeline.mark("head"))  # type: ignore[no-untyped-call]
        stats = token_logps(
            groups.take(hidden),
            head.weight,
            targets,
            chunk_size=chunk_rows(head.weight.shape[0], device),
            bias=head.bias,
        )
        return torch.stack([stats.logps, stats.entropy.detach()])

    with head_replaced(head, score):
        logps: Tensor = model(**given, use_cache=False).logits
    return logps[0].sum()


def _read(
    model: LanguageModel, given: dict[str, Any], groups: GroupInputs, timeline: MemoryTimeline
) -> Tensor:
    hidden: Tensor = model(**given, use_cache=False).last_hidden_state
    if not hidden.requires_grad:  # a frozen trunk, whose head alone is trained
        hidden.requires_grad_()
    hidden.register_hook(lambda _: timeline.mark("head"))  # type: ignore[no-untyped-call]
    return groups.take(hidden).float().sum()


def _watch_first_layer(model: nn.Module, timeline: MemoryTimeline) -> None:
    """Note when backward leaves the second layer: what follows is the pass's end."""
    layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList))

    def watch(module: nn.Module, args: Any, kwargs: Any) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        if states.requires_grad:
            states.register_hook(lambda _: timeline.mark("first layer"))

    layers[min(1, len(layers) - 1)].register_forward_pre_hook(watch, with_kwargs=True)


def _tokens(batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    prompts = torch.zeros(batch.groups, batch.prompt_tokens, dtype=torch.long)
    replies = torch.zeros(batch.groups * batch.group_size, batch.reply_tokens, dtype=torch.long)
    return prompts, torch.ones_like(prompts).bool(), replies, torch.ones_like(replies).bool()


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def _with_precision(model: Any, precision: Precision) -> Any:
    return model.to(torch.bfloat16) if precision == "bf16-true" else model


def _arithmetic(precision: Precision) -> Any:
    if precision == "bf16-mixed":
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


@contextmanager
def _faked(
    model: nn.Module, inputs: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], MemoryTimeline]]:
    """Give all weights and inputs a device but no memory; yield the inputs and a timeline."""
    vocab = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    fake = torch.empty(weight.shape, dtype=weight.dtype)
                    module._parameters[name] = nn.Parameter(fake, weight.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        model.tie_weights()  # type: ignore[operator]
        given = {
            name: mode.from_tensor(value) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }
        known = [*model.parameters(), *model.buffers()]
        known += [value for value in given.values() if isinstance(value, Tensor)]

        def label(tensor: Tensor) -> str:
            is_logits = tensor.dim() == 2 and tensor.shape[1] == vocab
            return "logits" if is_logits else "activations"

        yield given, MemoryTimeline(label, known)
