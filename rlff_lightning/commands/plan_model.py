"""Finds the model that a stage trains, whether or not its weights are there.

A model that an earlier stage of the same folder is to write has that stage's architecture; an
adapter that it wrote names the model below.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlff_lightning.commands.plan_adapter import read_adapter
from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.commands.stages import read_stages
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import LanguageModel, LoraSettings
from rlff_lightning.models.model_folder import model_folder
from rlff_lightning.models.pocket import PocketSettings, build_pocket_model
from rlff_lightning.models.without_weights import build_without_weights, read_model_config

Resolve = Callable[[Path], Mapping[str, Any]]
"""Reads a stage's whole config."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedModel:
    """A model that is planned with, not loaded."""

    name: str
    """The pretrained model that everything began with."""
    base: str
    """Where its weights below adapters come from."""
    architecture: Any
    """Its configuration in transformers."""
    adapter: LoraSettings | None = None
    """Adapters that are trained."""
    quantize: Literal["nf4"] | None = None
    """How frozen weights are packed."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights or of arithmetic."""
    gradient_checkpointing: bool = False
    """Activations are computed again."""
    is_frozen: bool = False
    """Nothing of it is trained, but a head on top."""

    @property
    def num_layers(self) -> int:
        """Decoder layers, L."""
        number: int = self.architecture.get_text_config().num_hidden_layers
        return number

    def build(
        self,
        num_layers: int | None,
        *,
        has_head: bool = True,
        gradient_checkpointing: bool | None = None,
    ) -> LanguageModel:
        """Build it without weights; see ``build_without_weights``."""
        recomputes = self.gradient_checkpointing
        model = build_without_weights(
            self.architecture,
            adapter=self.adapter,
            quantize=self.quantize,
            dtype=self.dtype,
            gradient_checkpointing=(
                recomputes if gradient_checkpointing is None else gradient_checkpointing
            ),
            has_head=has_head,
            num_layers=num_layers,
        )
        if self.is_frozen:
            model.requires_grad_(False)
            model.eval()
        return model


class _Written(NamedTuple):
    """What is known of a model that a stage of this project writes."""

    base: str
    """Model that the stage begins with."""
    adapter: LoraSettings | None = None
    quantize: Literal["nf4"] | None = None
    pocket: Mapping[str, Any] | None = None
    """Sizes of one that the stage makes itself; then there is no base."""


def planned_model(
    settings: Mapping[str, Any], config: Path, resolve: Resolve, architecture: str | None = None
) -> PlannedModel:
    """Describe the model of a ``Backbone`` in a config.

    Args:
        settings: The backbone's keys.
        config: The stage's file; names of earlier stages' outputs are looked up beside it.
        resolve: Reads such a stage's config.
        architecture: File or folder that says the architecture, instead of the model's name.

    Raises:
        UserError: If the architecture cannot be found.
    """
    origin = str(settings["model_name_or_path"])
    adapter = LoraSettings(**settings["adapter"]) if settings.get("adapter") else None
    quantize, base, pocket = settings.get("quantize"), "", None
    while pocket is None and (written := _written(origin, config, resolve)) is not None:
        if written.adapter is None:
            base = base or origin
        # A stage that trains an adapter writes one, and the next trains the same on.
        adapter = adapter or written.adapter
        if "quantize" not in settings:
            # A reward model is loaded as it was trained.
            quantize = quantize or written.quantize
        origin, pocket = written.base or origin, written.pocket
    return PlannedModel(
        name=origin,
        base=base or origin,
        architecture=(
            read_model_config(architecture or _shape_of(origin))
            if pocket is None
            else pocket_architecture(pocket)
        ),
        adapter=adapter,
        quantize=quantize,
        dtype=settings.get("dtype", "float32"),
        gradient_checkpointing=bool(settings.get("gradient_checkpointing")),
    )


def _written(name: str, config: Path, resolve: Resolve) -> _Written | None:
    """Say what a stage writes under this name or has written; ``None`` if it is another's model."""
    earlier = _earlier_stage(name, config)
    if earlier is None:
        found = read_adapter(model_folder(name))
        return None if found is None else _Written(found.base, found.adapter, found.quantize)
    arguments = resolve(earlier)["model"]["init_args"]
    if pocket := arguments.get("pocket"):
        return _Written("", pocket=pocket)
    begun = arguments.get("backbone") or arguments.get("policy")
    if not begun:
        raise UserError(
            f"{config}: {name} must be what an earlier stage trains, and {earlier.name} names no "
            "model.init_args.policy, backbone or pocket"
        )
    return _Written(
        base=str(begun["model_name_or_path"]),
        adapter=LoraSettings(**begun["adapter"]) if begun.get("adapter") else None,
        quantize=begun.get("quantize"),
    )


def _earlier_stage(name: str, config: Path) -> Path | None:
    """Find the config of the stage that is to write ``<stage>/...``."""
    stage = name.partition("/")[0]
    if Path(name).exists() or not list(config.parent.glob(f"[0-9]*_{stage}.*.yaml")):
        return None
    return next(found.config for found in read_stages(config.parent) if found.name == stage)


def pocket_architecture(settings: Mapping[str, Any]) -> Any:
    """Give the architecture of a model that a warm start trains from scratch."""
    sizes = PocketSettings(**{**settings, "seed": 0})
    return build_pocket_model(
        sizes.vocab_size,
        eos_id=0,
        pad_id=0,
        hidden_size=sizes.hidden_size,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        max_positions=sizes.max_positions,
    ).config


def _shape_of(name: str) -> str:
    """Take a shipped architecture of that name where the model itself is not at hand."""
    folder = model_folder(name)
    if folder.exists():
        return str(folder)
    try:
        file = config_folder() / "recipes" / "shapes" / f"{folder.name}.json"
    except UserError:
        return name
    return str(file) if file.is_file() else name
