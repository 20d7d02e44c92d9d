"""Switch off the dropout that a checkpoint brings along, which no policy can be trained with.

Two passes over the same tokens would draw other masks: the first ratio would not be 1, the first KL
to a reference not 0, and the engine, which has none, would be another policy.
"""

from torch import nn

from rlff_lightning.models.output_head import transformers_model


def switch_dropout_off(model: nn.Module) -> list[str]:
    """Set every dropout of the model to 0, in its layers and its config; adapters keep theirs.

    Args:
        model: Of transformers, or a PEFT model around one.

    Returns:
        What the config had, as ``name=value``.
    """
    config = transformers_model(model).config.get_text_config()
    found = {name: value for name, value in vars(config).items() if _is_dropout(name, value)}
    for name in found:
        setattr(config, name, 0.0)
    for path, module in model.named_modules():
        if ".lora_dropout" in path:
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if _is_dropout(name, value):
                setattr(module, name, 0.0)
    return [f"{name}={value}" for name, value in found.items()]


def _is_dropout(name: str, value: object) -> bool:
    return ("dropout" in name or "pdrop" in name) and isinstance(value, float) and value > 0
