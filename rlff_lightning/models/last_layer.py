"""Let a decoder's last layer compute only the tokens that are read.

After the last attention no token sees another, so the feed-forward part of the last layer need not
compute what nobody asks for: of a packed prompt all tokens but its last, for a policy; for a reward
model, all but the last token of each reply.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlff_lightning.models.trials import Stub, gives

_PARTS = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}


class _LastLayer(nn.Module):
    input_layernorm: nn.Module
    self_attn: nn.Module
    post_attention_layernorm: nn.Module
    mlp: nn.Module

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the hidden states, ``(1, S, H)``, or those that are read, ``(1, M, H)``."""
        layout = kwargs.get("prefix_layout")
        if layout is None or layout.read is None:
            return super().forward(hidden_states, *args, **kwargs)
        attended, _ = self.self_attn(
            *args, hidden_states=self.input_layernorm(hidden_states), **kwargs
        )
        read = (hidden_states + attended).index_select(1, layout.read)
        found: Tensor = read + self.mlp(self.post_attention_layernorm(read))
        return found


def use_last_layer(model: PreTrainedModel) -> None:
    """Turn the last layer of a plain decoder into one that knows what is read."""
    layer = _last_layer(model)
    if layer is not None and _is_plain(layer):
        plain = type(layer)
        # The name stays: by it transformers says what is not to be split.
        layer.__class__ = type(plain.__name__, (_LastLayer, plain), {})


def gives_read_alone(model: PreTrainedModel) -> bool:
    """Tell whether the model gives the hidden states that a layout says are read, and no others."""
    return isinstance(_last_layer(model), _LastLayer)


def _last_layer(model: PreTrainedModel) -> nn.Module | None:
    """Find the last layer of the decoder's only stack."""
    layers = getattr(model.get_decoder(), "layers", None)
    return layers[-1] if isinstance(layers, nn.ModuleList) and len(layers) else None


def _is_plain(layer: nn.Module) -> bool:
    if isinstance(layer, _LastLayer) or {name for name, _ in layer.named_children()} != _PARTS:
        return False
    rows = torch.linspace(-2, 3, 14).view(1, 2, 7)
    parts = {
        "input_layernorm": lambda x: x + 2,
        "self_attn": lambda hidden_states, **_: (hidden_states.cumsum(1), None),
        "post_attention_layernorm": lambda x: x * 3,
        "mlp": lambda x: x.square(),
    }
    attended = rows + (rows + 2).cumsum(1)
    expected = attended + (attended * 3).square()
    return gives(lambda: (type(layer).forward(Stub(layer, parts), rows),), expected)
