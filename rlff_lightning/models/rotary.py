"""Keep rotary position frequencies exact in models of lower precision."""

import torch
from torch import Tensor, nn


def keep_rotary_float32(model: nn.Module) -> None:
    """Undo, before every use, whatever rounded a rotary embedding's frequencies.

    ``model.to(torch.bfloat16)``, Lightning's ``bf16-true`` and FSDP's buffer type all round
    ``inv_freq`` by up to 0.4 %: an error of 1.9 rad at position 2048. Call this while the
    frequencies are still exact, that is, right after loading.

    Args:
        model: Any model; each of its modules that holds an ``inv_freq`` buffer is watched.

    Raises:
        ValueError: If frequencies are rounded already.
    """
    for name, module in model.named_modules():
        if "inv_freq" not in module._buffers:
            continue
        if any(isinstance(hook, _Restorer) for hook in module._forward_pre_hooks.values()):
            continue
        exact = {n: b for n, b in module.named_buffers(recurse=False) if b.is_floating_point()}
        for buffer_name, buffer in exact.items():
            if buffer.dtype != torch.float32:
                raise ValueError(f"{name}.{buffer_name} is {buffer.dtype} already, want float32")
        module.register_forward_pre_hook(_Restorer(exact))


class _Restorer:
    """Forward pre-hook; an object, so that a deep copy of the model copies it too."""

    def __init__(self, exact: dict[str, Tensor]) -> None:
        self.exact = exact

    def __call__(self, module: nn.Module, args: tuple[object, ...]) -> None:
        # These kinds renew their frequencies by themselves when the context grows.
        is_dynamic = getattr(module, "rope_type", None) in ("dynamic", "longrope")
        for name, exact in self.exact.items():
            current = module.get_buffer(name)
            if current is exact or (is_dynamic and current.dtype == torch.float32):
                continue
            self.exact[name] = exact.to(current.device)
            module.register_buffer(name, self.exact[name], persistent=False)
