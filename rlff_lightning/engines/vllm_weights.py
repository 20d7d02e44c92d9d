"""New weights for all of a running vLLM's layers.

vLLM's own reload collects every layer anew, tensor by tensor: 11 ms for a model of a million
parameters on a CPU, which is a third of all that an iteration spends beside its work. Where nothing
is quantised, split or adapted, each layer's new weight is packed at once instead.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from vllm import LLM

_ORDERS = (["q", "k", "v"], [0, 1])
"""Of the parts of a fused layer, as vLLM stacks them."""


def load_whole(llm: "LLM", weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give a vLLM in this process all weights, and forget what it computed with the old ones.

    Args:
        llm: Serves the same architecture.
        weights: Name in the checkpoint and weight; a tied output head is left out.
    """
    if llm.apply_model(is_plain)[0]:
        llm.apply_model(lambda model: put_in_place(model, weights))
    else:
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    llm.apply_model(repack_embeddings)
    llm.reset_prefix_cache()


def is_plain(model: nn.Module) -> bool:
    """Whether the model runs whole on a CPU, of plain layers and fused projections alone."""
    from vllm.distributed import get_tensor_model_parallel_world_size
    from vllm.platforms import current_platform

    mapper = getattr(model, "hf_to_vllm_mapper", None)
    stacked = getattr(mapper, "orig_to_new_stacked", {})
    renamed = [key for key, rules in vars(mapper).items() if rules] if mapper else []
    return (
        current_platform.is_cpu()
        and get_tensor_model_parallel_world_size() == 1
        and renamed == ["orig_to_new_stacked"]
        # Llama 4 turns queries and keys while it loads them, by no rule of its mapper.
        and not hasattr(model, "permute_qk_weight_for_rotary")
        and all(
            [shard for target, shard in stacked.values() if target == fused] in _ORDERS
            for fused, _ in stacked.values()
        )
        and all(map(_is_plain_layer, model.modules()))
    )


def _is_plain_layer(module: nn.Module) -> bool:
    from vllm.lora.layers import BaseLayerWithLoRA
    from vllm.model_executor.layers import linear
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    if isinstance(module, linear.LinearBase):
        return type(module.quant_method) is linear.UnquantizedLinearMethod and type(module) in (
            linear.ColumnParallelLinear,
            linear.MergedColumnParallelLinear,
            linear.QKVParallelLinear,
            linear.ReplicatedLinear,
            linear.RowParallelLinear,
        )
    method = getattr(module, "quant_method", None)
    is_plain_method = method is None or type(method) is UnquantizedEmbeddingMethod
    return is_plain_method and not isinstance(module, BaseLayerWithLoRA)


@torch.no_grad()
def put_in_place(model: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give a plain model new weights; what is not among them stays.

    Args:
        model: For which ``is_plain`` holds.
        weights: Name in the checkpoint and weight; a tied output head is left out.

    Raises:
        AttributeError: If the model has no weight of a name.
        ValueError: If a part of a fused layer is missing.
    """
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.model_loader.weight_utils import default_weight_loader

    stacked = model.hf_to_vllm_mapper.orig_to_new_stacked
    for name, weight in _fused(weights, {part: fused for part, (fused, _) in stacked.items()}):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        held = module.get_parameter(leaf)
        if leaf == "weight" and isinstance(module, LinearBase):
            # What is held is packed; its place is empty.
            module.weight = nn.Parameter(weight.to(held.dtype, copy=True), requires_grad=False)
            module.quant_method.process_weights_after_loading(module)
        else:
            getattr(held, "weight_loader", default_weight_loader)(held, weight)


def repack_embeddings(model: nn.Module) -> None:
    """Renew packed copies of embedding weights.

    With tied embeddings no weight bears the output head's name, so that a reload leaves the
    packed copy that the CPU build computes logits with as it was.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding):
            module.quant_method.process_weights_after_loading(module)


def _fused(
    weights: Iterable[tuple[str, Tensor]], targets: Mapping[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """Join the parts of fused layers, in the order of ``targets``, once all have come."""
    waiting: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights:
        part = next((part for part in targets if part in name), None)
        if part is None:
            yield name, weight
            continue
        target = name.replace(part, targets[part])
        parts = waiting.setdefault(target, {})
        parts[part] = weight
        order = [other for other, fused in targets.items() if fused == targets[part]]
        if len(parts) == len(order):
            yield target, torch.cat([parts[other] for other in order])
            del waiting[target]
    if waiting:
        raise ValueError(
            f"weights must hold every part of a fused layer, {sorted(waiting)} miss some"
        )
