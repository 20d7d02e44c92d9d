"""Ask a language model for what its output head makes of chosen positions, never for all logits.

The whole model is called, so that hooks of sharding, adapters and checkpointing fire as usual; only
the head's own computation is replaced for the length of the call.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlff_lightning.errors import UserError
from rlff_lightning.models.cpu_linear import CPULinear
from rlff_lightning.models.sharding import unwrapped

_LOGIT_CHANGES = (
    "final_logit_softcapping",
    "lm_head_multiplier",
    "logit_scale",
    "logits_scaling",
    "logits_soft_cap",
    "output_logit_soft_cap",
    "output_multiplier",
    "unpadded_vocab_size",
)
"""Settings by which architectures of transformers alter what their head gives."""


def transformers_model(model: nn.Module) -> PreTrainedModel:
    """Find the transformers model in ``model``, which may be wrapped in a PEFT model.

    Raises:
        UserError: If there is none.
    """
    model = unwrapped(model)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        raise UserError(f"The model must be of transformers or PEFT, got {type(base).__name__}")
    return base


def output_head(model: nn.Module) -> nn.Linear:
    """Find the linear layer that turns hidden states into logits.

    Raises:
        UserError: If the logits are not this layer's plain output.
    """
    base = transformers_model(model)
    head = base.get_output_embeddings()
    if not isinstance(head, nn.Linear) or type(head) not in (nn.Linear, CPULinear):
        found = "no output head" if head is None else f"an output head of {type(head).__name__}"
        raise UserError(
            f"{type(base).__name__} has {found}: log-probabilities need a plain nn.Linear; "
            "leave the output head out of LoRA's target modules and of quantisation"
        )
    config = base.config.get_text_config()
    for name in _LOGIT_CHANGES:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise UserError(
                f"{type(base).__name__} changes its logits by config.{name}="
                f"{getattr(config, name)}: only models with plain logits are supported"
            )
    return head


@contextmanager
def head_replaced(head: nn.Linear, compute: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the head return ``compute(hidden)`` instead of logits."""
    head.forward = compute  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del head.forward
