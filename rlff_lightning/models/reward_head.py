"""A reward model: a pretrained trunk and a small head that reads one state of a whole text."""

import inspect
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlff_lightning.errors import UserError
from rlff_lightning.functional.ensemble import Pessimism, pessimistic
from rlff_lightning.models.group_inputs import Sharing, group_inputs
from rlff_lightning.models.head_settings import HeadSettings, Reads
from rlff_lightning.models.output_head import transformers_model
from rlff_lightning.models.pooling import compare, pool, positions_of
from rlff_lightning.models.prefix_sharing import is_causal
from rlff_lightning.models.reward_files import read_reward_files, write_reward_files
from rlff_lightning.models.sharding import Sharding, gathered

__all__ = ["HeadSettings", "RewardModel", "Texts"]


class Texts(NamedTuple):
    """Tokenised texts, padded on any side. B rows, L tokens."""

    ids: Tensor
    """``(B, L)``, int64."""
    mask: Tensor
    """``True`` at real tokens, at least one per row, ``(B, L)``."""


class _Head(nn.Linear):
    """Computes in float32, whatever its weights were cast to."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return linear(input.float(), self.weight.float(), self.bias.float())


class RewardModel(nn.Module):
    """Score whole texts. The head is float32, whatever the trunk is.

    A score depends on the attended tokens alone: neither on padding nor on the rest of the batch.

    Args:
        trunk: A decoder or encoder of transformers without output head, with or without adapters.
        settings: What the head predicts, and from where it reads.
    """

    label_mean: float
    """Mean of the training labels; a regression head predicts in units of their spread."""
    label_std: float
    """Standard deviation of the training labels."""
    is_trained: bool
    """The head was trained: see ``mark_trained``."""

    def __init__(self, trunk: PreTrainedModel | PeftModel, settings: HeadSettings) -> None:
        super().__init__()
        base = transformers_model(trunk)
        if "position_ids" not in inspect.signature(base.forward).parameters:
            raise UserError(
                f"{type(base).__name__} cannot score: it takes no position_ids, so that padding "
                "would change a score"
            )
        config = base.config.get_text_config()
        if settings.layers > config.num_hidden_layers:
            raise UserError(
                f"HeadSettings.layers must be at most {config.num_hidden_layers}, the layers of "
                f"this {type(base).__name__}, got {settings.layers!r}"
            )
        width = config.hidden_size * settings.num_states
        self.trunk = trunk
        self.settings = settings
        self.head = _Head(width, settings.members * settings.num_outputs, dtype=torch.float32)
        nn.init.normal_(self.head.weight, std=(width + 1) ** -0.5)
        nn.init.zeros_(self.head.bias)
        self.label_mean, self.label_std, self.is_trained = 0.0, 1.0, False

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Predict from each row's text.

        Args:
            input_ids: Padded on any side, ``(B, L)``.
            attention_mask: ``True`` or 1 at real tokens, at least one per row, ``(B, L)``.

        Returns:
            ``(B, num_outputs)``, float32: standardised value, logits of outcomes, or a logit; an
            ensemble's is ``(B, members, num_outputs)``.

        Raises:
            UserError: If a text is longer than the trunk has positions for, or the head reads
                context and reply apart.
        """
        self._must_read("joined")
        return self._read(self.embed(input_ids, attention_mask))

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Give the state of each row's text that the head's ``pooling`` names.

        Args:
            input_ids: Padded on any side, ``(B, L)``.
            attention_mask: ``True`` or 1 at real tokens, at least one per row, ``(B, L)``.

        Returns:
            ``(B, H)``, float32.

        Raises:
            UserError: If a text is longer than the trunk has positions for.
        """
        mask = attention_mask.bool()
        places = positions_of(mask)
        self._check_length(places)
        hidden = self._hidden(
            input_ids=input_ids,
            attention_mask=mask.long(),
            position_ids=places + self._first_position,
        )
        return pool(hidden, mask, self.settings.pooling)

    def forward_apart(self, contexts: Texts, latest: Texts, replies: Texts) -> Tensor:
        """Predict from context, its latest message and the reply, each embedded by itself.

        Args:
            contexts: One per group, N rows.
            latest: The message that each context ends with, N rows.
            replies: Siblings adjacent, N * G rows.

        Returns:
            ``(N * G, num_outputs)``, as ``forward`` has it.

        Raises:
            UserError: If a text is too long, or the head reads context and reply as one text.
        """
        states = self.states_apart(contexts, latest, replies)
        return self._read(states)

    def states_apart(self, contexts: Texts, latest: Texts, replies: Texts) -> Tensor:
        """Give what the head reads in ``forward_apart``, ``(N * G, 5 H)``, float32."""
        self._must_read("apart")
        size = len(replies.ids) // len(contexts.ids)
        said, heard = (
            self.embed(*texts).repeat_interleave(size, dim=0) for texts in (contexts, latest)
        )
        return compare(said, heard, self.embed(*replies))

    def forward_groups(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        completion_ids: Tensor,
        completion_mask: Tensor,
        *,
        sharing: Sharing = "auto",
    ) -> Tensor:
        """Predict from prompt and completion, computing each group's prompt once.

        Args:
            prompt_ids: One prompt per group, left-padded, ``(N, P)``.
            prompt_mask: ``True`` at prompt tokens, ``(N, P)``.
            completion_ids: Right-padded, siblings adjacent, ``(N * G, T)``.
            completion_mask: ``True`` at completion tokens, ``(N * G, T)``.
            sharing: How a group's prompt is computed; all ways agree to rounding.

        Returns:
            ``(N * G, num_outputs)``, what ``forward`` gives for the concatenated texts.

        Raises:
            UserError: If the head does not read the last token, or a text is too long.
        """
        self._must_read("joined")
        if not self.shares_prompts:
            raise UserError(
                "Groups share a prompt only with a decoder and pooling 'last', got "
                f"{type(transformers_model(self.trunk)).__name__} and {self.settings.pooling!r}"
            )
        groups = group_inputs(
            self.trunk,
            sharing,
            *(prompt_ids, prompt_mask, completion_ids, completion_mask),
            read="last",
            is_last_alone=self.settings.layers == 1,
        )
        self._check_length(groups.inputs["position_ids"])
        hidden = self._hidden(**groups.inputs, use_cache=False)
        return self._read(groups.take(hidden).float())

    @property
    def shares_prompts(self) -> bool:
        """Say whether a context reads the same whatever the reply behind it."""
        return self.settings.pooling == "last" and is_causal(transformers_model(self.trunk))

    def values(self, outputs: Tensor, *, pessimism: Pessimism = 0.0) -> Tensor:
        """Turn predictions into rewards, in the labels' units.

        regression: mean + std o;  outcomes: sum_c softmax(o)_c value_c;  binary: sigmoid(o)

        Args:
            outputs: What ``forward`` returned.
            pessimism: How an ensemble's members become one reward; see ``pessimistic``.

        Returns:
            One reward per text, ``(B,)``.
        """
        if self.settings.members > 1:
            return pessimistic(self.member_values(outputs), pessimism)
        return self._values(outputs)

    def member_values(self, outputs: Tensor) -> Tensor:
        """Turn an ensemble's predictions into rewards of its members, ``(B, members)``."""
        return torch.stack([self._values(own) for own in outputs.unbind(1)], dim=1)

    def _values(self, outputs: Tensor) -> Tensor:
        match self.settings.kind:
            case "regression":
                return self.label_mean + self.label_std * outputs[:, 0]
            case "outcomes":
                return outputs.softmax(-1) @ outputs.new_tensor(self.settings.class_values)
            case "binary":
                return outputs[:, 0].sigmoid()

    def standardise(self, labels: Tensor) -> Tensor:
        """Turn labels into what a regression head should predict: (label - mean) / std."""
        return (labels - self.label_mean) / self.label_std

    def fit_labels(self, labels: Tensor) -> None:
        """Take mean and unbiased standard deviation from the training labels, ``(B,)``.

        Labels that are all equal keep a standard deviation of 1.
        """
        self.label_mean = labels.double().mean().item()
        std = labels.double().std().item() if len(labels) > 1 else 0.0
        self.label_std = std if std > 0 else 1.0

    def freeze_trunk(self) -> None:
        """Train the head alone."""
        self.trunk.requires_grad_(False)
        self.trunk.eval()

    def mark_trained(self) -> None:
        """Let the model be used as a scorer; whoever trained the head calls this."""
        self.is_trained = True

    def save_pretrained(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        is_writer: bool = True,
    ) -> None:
        """Write everything a scorer needs; the folder appears whole or not at all.

        Args:
            folder: Replaced as a whole if it exists.
            tokenizer: Saved beside it; ``None`` saves none.
            is_writer: This process writes; another only helps to gather a sharded model.
        """
        write_reward_files(
            folder,
            trunk=self.trunk,
            head=gathered(self.head) or dict(self.head.named_parameters()),
            settings=self.settings,
            state=self.get_extra_state(),
            tokenizer=tokenizer,
            is_writer=is_writer,
        )

    def spread(self, sharding: Sharding) -> None:
        """Spread trunk and head over processes."""
        self.trunk = sharding.model(self.trunk)
        self.head = sharding.layer(self.head)

    @classmethod
    def load(cls, folder: Path, *, dtype: Literal["float32", "bfloat16"] = "float32") -> Self:
        """Load a trained reward model for scoring: frozen, in evaluation mode.

        Args:
            folder: What ``save_pretrained`` wrote.
            dtype: Of the trunk's weights; the head is float32.

        Raises:
            UserError: If the folder holds no reward model, or one whose head was never trained.
        """
        files = read_reward_files(folder, dtype=dtype)
        model = cls(files.backbone.build_trunk(), files.settings)
        try:
            model.head.load_state_dict(files.head)
        except RuntimeError as error:
            raise UserError(f"{folder}: the head's weights do not fit its settings") from error
        model.set_extra_state(files.state)
        model.requires_grad_(False)
        model.eval()
        return model

    def get_extra_state(self) -> dict[str, Any]:
        # Not buffers: casting the module to bfloat16 would round them.
        return {
            "label_mean": self.label_mean,
            "label_std": self.label_std,
            "is_trained": self.is_trained,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.label_mean = state["label_mean"]
        self.label_std = state["label_std"]
        self.is_trained = state["is_trained"]

    def _must_read(self, reads: Reads) -> None:
        if self.settings.reads != reads:
            raise UserError(
                f"HeadSettings.reads must be {reads!r} for this input, got {self.settings.reads!r}"
            )

    def _hidden(self, **inputs: Any) -> Tensor:
        """Run the trunk; the mean state of the layers that the head reads, ``(B, L, H)``."""
        layers = self.settings.layers
        if layers == 1:
            return cast(Tensor, self.trunk(**inputs).last_hidden_state)
        states = self.trunk(**inputs, output_hidden_states=True).hidden_states
        return torch.stack(states[-layers:]).mean(0)

    def _read(self, states: Tensor) -> Tensor:
        read: Tensor = self.head(states)
        members = self.settings.members
        return read if members == 1 else read.view(len(read), members, -1)

    @property
    def _first_position(self) -> int:
        """RoBERTa's kind counts positions from beyond its padding token's id."""
        embeddings: Any = getattr(transformers_model(self.trunk), "embeddings", None)
        if not hasattr(embeddings, "create_position_ids_from_input_ids"):
            return 0
        return int(embeddings.padding_idx) + 1

    def _check_length(self, places: Tensor) -> None:
        config = transformers_model(self.trunk).config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        if limit is None or places.shape[1] + self._first_position <= limit:
            return
        length = int(places.max()) + 1
        if length + self._first_position > limit:
            raise UserError(
                f"A text for the reward model must have at most {limit - self._first_position} "
                f"tokens, got {length}"
            )
