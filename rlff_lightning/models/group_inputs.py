"""What a model is called with to read groups: prompts once per group, or once per completion."""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rlff_lightning.errors import UserError
from rlff_lightning.models.attention_kernels import has_kernel
from rlff_lightning.models.last_layer import gives_read_alone
from rlff_lightning.models.output_head import transformers_model
from rlff_lightning.models.prefix_sharing import pack_groups, use_prefix_attention, why_not_shared
from rlff_lightning.models.sharing_cost import is_sharing_cheaper

Sharing = Literal["auto", "shared", "padded"]
"""A prompt is computed once per group, once per completion, or whichever costs less."""

Read = Literal["predictors", "last"]
"""Hidden states that predict a completion's tokens, or those at its end."""


class GroupInputs(NamedTuple):
    """Inputs, and which of the hidden states are asked for."""

    inputs: dict[str, Any]
    """Keyword arguments of the model."""
    read: Tensor
    """Index of each in what a model gives of all tokens, flattened to ``(rows * columns, H)``."""

    def take(self, hidden: Tensor) -> Tensor:
        """Take the states that are asked for from what the model gave, ``(len(read), H)``.

        Args:
            hidden: ``(rows, columns, H)``, or ``(1, len(read), H)`` from a last layer that left the
                others out.

        Raises:
            RuntimeError: If such a layer's states are not what came out.
        """
        states = hidden.flatten(0, 1)
        layout = self.inputs.get("prefix_layout")
        if layout is None or layout.read is None:
            # Not by [...]: its backward adds up row by row on one thread, a prompt's end G times.
            return states.index_select(0, self.read)
        if len(states) != len(self.read):
            raise RuntimeError(
                f"The last layer was to give {len(self.read)} states, got {len(states)}"
            )
        return states


def group_inputs(
    model: nn.Module,
    sharing: Sharing,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    *,
    read: Read = "predictors",
    is_last_alone: bool = True,
) -> GroupInputs:
    """Lay out groups as ``sharing`` asks; shared prompts switch the model to prefix attention.

    Args:
        model: A decoder of transformers, with or without adapters.
        sharing: How a group's prompt is computed.
        prompt_ids: One prompt per group, left-padded, ``(N, P)``.
        prompt_mask: ``True`` at prompt tokens, ``(N, P)``.
        completion_ids: G completions per prompt, right-padded, siblings adjacent, ``(N * G, T)``.
        completion_mask: ``True`` at completion tokens, ``(N * G, T)``.
        read: Which hidden states: of the token before each completion token, ``(M,)`` in the
            completion mask's order, or of each completion's last token, ``(N * G,)``; an empty
            completion's is its prompt's last.
        is_last_alone: No layer's states are read but the last one's, which may leave others out.

    Raises:
        ValueError: If the shapes disagree, a prompt is empty, or padding is on the wrong side.
        UserError: If ``sharing`` is ``shared`` and the model's attention does not allow it.
    """
    groups = prompt_ids, prompt_mask, completion_ids, completion_mask
    check_groups(*groups)
    if sharing == "padded":
        return _padded(*groups, read)
    obstacle = why_not_shared(model)
    device = prompt_ids.device.type
    if sharing == "auto" and not obstacle and not _has_kernel(model, device):
        obstacle = f"no attention kernel on {device} for this type"
    if obstacle and sharing == "shared":
        raise UserError(f"sharing must be 'padded' or 'auto' for this model: {obstacle}")
    if obstacle:
        return _padded(*groups, read)
    packed = pack_groups(*groups, with_last_token=read == "last")
    if sharing == "auto" and not is_sharing_cheaper(
        transformers_model(model).config.get_text_config(),
        packed.layout,
        num_rows=len(completion_ids),
        width=prompt_ids.shape[1] + completion_ids.shape[1],
        device=device,
    ):
        return _padded(*groups, read)
    use_prefix_attention(model)
    inputs, where = packed.model_inputs(), getattr(packed, read)
    if is_last_alone and gives_read_alone(transformers_model(model)):
        inputs["prefix_layout"] = replace(packed.layout, read=where)
    return GroupInputs(inputs, where)


def _has_kernel(model: nn.Module, device: str) -> bool:
    base = transformers_model(model)
    config = base.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    is_cast = torch.is_autocast_enabled(device)
    return has_kernel(device, torch.get_autocast_dtype(device) if is_cast else base.dtype, width)


def _padded(
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    read: Read,
) -> GroupInputs:
    """Repeat every prompt before each of its completions."""
    group_size = len(completion_ids) // len(prompt_ids)
    num_prompt, num_steps = prompt_ids.shape[1], completion_ids.shape[1]
    num_unread = 0 if read == "last" else 1
    width = num_prompt + num_steps - num_unread
    ids = torch.cat([prompt_ids.repeat_interleave(group_size, 0), completion_ids], 1)[:, :width]
    mask = torch.cat([prompt_mask.repeat_interleave(group_size, 0), completion_mask], 1)[:, :width]
    rows, steps = completion_mask.nonzero(as_tuple=True)
    all_rows = torch.arange(len(ids), device=ids.device)
    where = {
        "predictors": rows * width + num_prompt - 1 + steps,
        "last": all_rows * width + num_prompt - 1 + completion_mask.sum(1),
    }
    return GroupInputs(
        inputs={
            "input_ids": ids,
            "attention_mask": mask.long(),
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        },
        read=where[read],
    )


def check_groups(
    prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
) -> None:
    """Refuse what is not left-padded prompts with right-padded completions, G for each.

    Raises:
        ValueError: If the shapes disagree, a prompt is empty, or padding is on the wrong side.
    """
    if prompt_ids.shape != prompt_mask.shape or completion_ids.shape != completion_mask.shape:
        raise ValueError(
            "Masks must have the shape of their ids, got prompts "
            f"{tuple(prompt_ids.shape)} and {tuple(prompt_mask.shape)}, completions "
            f"{tuple(completion_ids.shape)} and {tuple(completion_mask.shape)}"
        )
    if len(prompt_ids) == 0 or len(completion_ids) % len(prompt_ids):
        raise ValueError(
            f"{len(completion_ids)} completions must be whole groups of {len(prompt_ids)} prompts"
        )
    if (prompt_mask[:, :-1] & ~prompt_mask[:, 1:]).any() or not prompt_mask.any(1).all():
        raise ValueError("Prompts must be left-padded and hold at least one token")
    if (completion_mask[:, 1:] & ~completion_mask[:, :-1]).any():
        raise ValueError("Completions must be right-padded")
