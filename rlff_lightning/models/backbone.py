"""Load a pretrained model as a config describes it: whole, with LoRA, or with LoRA on 4 bits."""

import json
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlff_lightning.errors import UserError
from rlff_lightning.models.cpu_linear import use_cpu_linear
from rlff_lightning.models.last_layer import use_last_layer
from rlff_lightning.models.lean_layers import use_lean_layers
from rlff_lightning.models.model_folder import check_name, model_folder
from rlff_lightning.models.rotary import keep_rotary_float32

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
LanguageModel = PreTrainedModel | PeftModel
"""What ``Backbone.build`` gives: a plain model, or one with adapters."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters beside frozen weights.

    Args:
        rank: Inner width of each adapter, r.
        alpha: Adapters are scaled by ``alpha / rank``.
        dropout: On the adapters' input; above 0 the first policy ratio is no longer 1.
        target_modules: Names of the linear layers to adapt; ``all-linear`` spares the output head.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"LoraSettings.rank must be at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"LoraSettings.dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class Backbone:
    """A pretrained model and how to load it.

    Args:
        model_name_or_path: A folder with safetensors weights, a folder with a LoRA adapter, a
            name on the Hugging Face Hub, or ``package:NAME/FOLDER`` of an installed package.
        adapter: Train new LoRA adapters instead of the weights.
        quantize: Hold the frozen weights in 4-bit NormalFloat.
        dtype: Of the weights; of the arithmetic if they are quantised.
        gradient_checkpointing: Compute activations again in the backward pass to save memory.
        trust_remote_code: Run code that comes with the model.
    """

    model_name_or_path: str
    _: KW_ONLY
    adapter: LoraSettings | None = None
    quantize: Literal["nf4"] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False

    def build(self) -> PreTrainedModel | PeftModel:
        """Load the language model, in training mode.

        Raises:
            UserError: If there is no such model or its weights are not complete.
        """
        return self._load(AutoModelForCausalLM.from_pretrained, "CAUSAL_LM")

    def build_trunk(self) -> PreTrainedModel | PeftModel:
        """Load the model without its output head, in training mode; encoders without a pooler.

        Raises:
            UserError: If there is no such model or its weights are not complete.
        """
        return self._load(AutoModel.from_pretrained, "FEATURE_EXTRACTION")

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer; without a padding token it pads with its end-of-sequence token.

        Raises:
            UserError: If there is none.
        """
        check_name(self.model_name_or_path)
        if self._folder.exists() and not any((self._folder / n).is_file() for n in _TOKENIZERS):
            raise UserError(f"{self._folder}: no tokenizer: must hold one of {_TOKENIZERS}")
        # By a Qwen2 config, AutoTokenizer would turn a tokenizer of no special class into Qwen2's
        # own, with another way of splitting words.
        load = PreTrainedTokenizerFast if _has_plain_tokenizer(self._folder) else AutoTokenizer
        try:
            tokenizer: PreTrainedTokenizerBase = load.from_pretrained(
                str(self._folder), trust_remote_code=self.trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{self.model_name_or_path}: no tokenizer: {_line(error)}") from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @property
    def _folder(self) -> Path:
        return model_folder(self.model_name_or_path)

    def _load(self, load: Callable[..., Any], task: str) -> PreTrainedModel | PeftModel:
        check_name(self.model_name_or_path)
        is_adapter = (self._folder / "adapter_config.json").is_file()
        if is_adapter and self.adapter:
            raise UserError(
                f"{self.model_name_or_path} is an adapter already: leave out Backbone.adapter"
            )
        base = self._load_base(load, _base_of(self._folder) if is_adapter else self._folder)
        if self.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        model: PreTrainedModel | PeftModel = base
        if is_adapter:
            model = _load_adapter(base, self._folder)
        elif self.adapter:
            model = add_adapter(base, self.adapter, task)
        use_cpu_linear(model)
        use_lean_layers(model)
        use_last_layer(base)
        # Lightning keeps the mode it finds, and checkpointing works in training mode only.
        model.train()
        return model

    def _load_base(self, load: Callable[..., Any], folder: Path) -> PreTrainedModel:
        name = str(folder)
        if folder.exists() and not list(folder.glob("*.safetensors")):
            raise UserError(f"{name}: a model folder must hold weights (*.safetensors), found none")
        options: dict[str, Any] = {"dtype": _DTYPES[self.dtype]}
        if self.quantize:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=self.quantize,
                bnb_4bit_compute_dtype=_DTYPES[self.dtype],
                bnb_4bit_use_double_quant=True,
            )
        try:
            model, report = load(
                name,
                use_safetensors=True,
                attn_implementation="sdpa",
                trust_remote_code=self.trust_remote_code,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"{name}: cannot be loaded as a model: {_line(error)}") from error
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise UserError(f"{name}: weights are missing for {len(missing)} keys: {missing[0]}, …")
        _keep_four_bit_exact(model)
        keep_rotary_float32(model)
        found: PreTrainedModel = model
        return found


def _load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Load an adapter whole: PEFT would leave what the file lacks as it was initialised."""
    try:
        model = PeftModel.from_pretrained(base, folder, is_trainable=True)
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            found = set(file.keys())
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be loaded as an adapter: {_line(error)}") from error
    missing = sorted(get_peft_model_state_dict(model, save_embedding_layers=False).keys() - found)
    if missing:
        raise UserError(f"{folder}: weights are missing for {len(missing)} keys: {missing[0]}, …")
    return model


def add_adapter(base: PreTrainedModel, settings: LoraSettings, task: str) -> PeftModel:
    """Wrap a model in new LoRA adapters.

    Args:
        base: Its weights are frozen.
        settings: Of the adapters.
        task: PEFT's name for what the model does, e.g. ``CAUSAL_LM``.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type=task,
    )
    adapted: PeftModel = get_peft_model(base, config)
    return adapted


def _keep_four_bit_exact(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking weights for a CPU's bfloat16 kernels.

    On such CPUs the first pass in evaluation mode would change the weights' layout for good: scores
    would then differ from training's by 1e-3, gradients stop at the layer, and merging read noise.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _base_of(folder: Path) -> Path:
    """Read which model an adapter was trained on."""
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return Path(settings["base_model_name_or_path"])


def _has_plain_tokenizer(folder: Path) -> bool:
    file = folder / "tokenizer_config.json"
    if not file.is_file() or not (folder / "tokenizer.json").is_file():
        return False
    kind = json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class")
    return kind in ("TokenizersBackend", "PreTrainedTokenizerFast")


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
