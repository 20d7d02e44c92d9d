"""Finds the policy that a run or a folder holds, and lets it reply word by word."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlff_lightning.agents.repairing import retry_seed, retry_temperature
from rlff_lightning.dialogue.chat import ChatFormat, ChatSettings
from rlff_lightning.dialogue.reply_format import OPEN
from rlff_lightning.errors import UserError
from rlff_lightning.models.model_folder import check_name
from rlff_lightning.report.run_folder import read_object
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation

if TYPE_CHECKING:
    from rlff_lightning.engines.transformers import TransformersEngine

_MOST_TOKENS = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Where a policy's weights are and how it was shown conversations."""

    model_name_or_path: str
    """The model, or the base of an adapter."""
    adapter: Path | None = None
    """Folder of a LoRA adapter."""
    chat: ChatSettings = field(default_factory=ChatSettings)
    """As in the stage that trained it."""
    max_tokens: int = 256
    """Limit of reasoning and reply together, as in the stage that trained it."""


def find_policy(name: str, stage: str | None = None) -> Policy:
    """Find a policy in a run, a stage's folder, a model's or an adapter's folder, or on the hub.

    Args:
        name: Path or hub name.
        stage: The run's stage whose model is meant; ``None`` for ``policy``.

    Returns:
        The policy with the chat settings of the ``config.yaml`` beside it.

    Raises:
        UserError: If a folder holds no policy, or the run has no such stage.
    """
    folder = Path(name)
    if not folder.is_dir():
        if stage is not None:
            raise UserError(f"rlff chat: --stage needs a run's folder, got {name}")
        check_name(name)
        return Policy(model_name_or_path=name)
    if _is_weights(folder):
        return _policy(folder, folder.parent)
    for home in (folder / (stage or "policy"), *([] if stage else [folder])):
        for kind in ("adapter", "model"):
            if _is_weights(home / kind):
                return _policy(home / kind, home)
    stages = sorted({path.parent.name for path in folder.glob("*/model") if _is_weights(path)})
    hint = f"name one with --stage: {', '.join(stages)}" if stages else "it holds no model"
    raise UserError(f"rlff chat: no policy in {folder / stage if stage else folder}; {hint}")


def _is_weights(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("config.json", "adapter_config.json"))


def _policy(weights: Path, home: Path) -> Policy:
    policy = Policy(model_name_or_path=str(weights))
    if (weights / "adapter_config.json").is_file():
        settings = read_object(weights / "adapter_config.json")
        base = str(settings.get("base_model_name_or_path"))
        # Stages run in the run's folder: a base that an earlier stage wrote is relative to it.
        inside = home.parent / base
        base = str(inside) if inside.is_dir() else base
        policy = replace(policy, model_name_or_path=base, adapter=weights)
    config = home / "config.yaml"
    if not config.is_file():
        return policy
    arguments = _arguments(config)
    rollout = arguments.get("rollout") or {}
    try:
        chat = ChatSettings(**(arguments.get("chat") or {}))
    except TypeError as error:
        raise UserError(f"{config}: model.init_args.chat: {error}") from error
    return replace(policy, chat=chat, max_tokens=rollout.get("max_tokens", policy.max_tokens))


def _arguments(config: Path) -> dict[str, Any]:
    model = _read_yaml(config).get("model")
    arguments = model.get("init_args") if isinstance(model, dict) else None
    return arguments if isinstance(arguments, dict) else {}


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be a mapping, got {type(content).__name__}")
    return content


class ChatPolicy:
    """Replies to one person, piece by piece, on the machine's GPU or else its CPU.

    Args:
        policy: What replies.
        temperature: 0 is greedy.
        max_tokens: Limit of reasoning and reply together.
        seed: Root of every draw.
    """

    def __init__(
        self, policy: Policy, *, temperature: float, max_tokens: int, seed: int = 0
    ) -> None:
        import torch

        from rlff_lightning.engines.base import Sampling
        from rlff_lightning.models.backbone import Backbone

        has_gpu = torch.cuda.is_available()
        self._engine = _engine(policy, "cuda" if has_gpu else "cpu")
        self._tokenizer = Backbone(policy.model_name_or_path).tokenizer()
        self._sampling = Sampling(temperature=temperature, max_tokens=max_tokens, with_logps=False)
        room = self._engine.max_model_len - max_tokens
        if room < 1:
            raise UserError(
                f"rlff chat: --max-tokens must be below {self._engine.max_model_len}, which is all "
                f"that the model holds, got {max_tokens}"
            )
        limit = min(policy.chat.max_prompt_tokens, room)
        self._chat = ChatFormat(self._tokenizer, replace(policy.chat, max_prompt_tokens=limit))
        self._seed = seed
        self.is_finished = False
        """The last reply ended by itself, not at the token limit."""
        if policy.adapter is not None:
            self._engine.load_adapter(policy.adapter, version=0)

    def prompt(self, conversation: Conversation) -> tuple[list[int], int]:
        """Render a conversation, without its oldest turns where it is too long.

        Returns:
            Token ids, and the number of messages that the policy does not see.

        Raises:
            UserError: If even the last message alone is too long.
        """
        messages = conversation.messages
        shown = len(messages)
        if self._chat.settings.max_messages is not None:
            shown = min(shown, self._chat.settings.max_messages)
        while True:
            try:
                part = replace(conversation, messages=messages[len(messages) - shown :])
                return self._chat.prompt_ids(part), len(messages) - shown
            except UserError:
                if shown == 1:
                    raise
                # Begin with the seeker's turn again.
                shown = max(1, shown - 2)

    def is_reasoning_open(self, prompt: list[int]) -> bool:
        """Say whether the chat template itself opens the reasoning."""
        return str(self._tokenizer.decode(prompt[-8:])).rstrip().endswith(OPEN)

    def stream(self, prompt: list[int], turn: int, attempt: int = 0) -> Iterator[str]:
        """Generate the reply's text, reasoning included; a further attempt is a warmer one."""
        warmth = retry_temperature(self._sampling.temperature, attempt)
        seed = retry_seed(derive_seed(self._seed, "chat", turn), attempt)
        sampling = replace(self._sampling, temperature=warmth)
        self.is_finished = False
        self.is_finished = yield from self._engine.stream(prompt, sampling, seed)


def _engine(policy: Policy, device: str) -> "TransformersEngine":
    from rlff_lightning.engines.transformers import TransformersEngine

    file = Path(policy.model_name_or_path) / "config.json"
    longest = _MOST_TOKENS
    if file.is_file():
        config = read_object(file)
        longest = min(longest, config.get("max_position_embeddings", longest))
    return TransformersEngine(
        policy.model_name_or_path,
        max_model_len=longest,
        dtype="float32" if device == "cpu" else "bfloat16",
        device=device,
    )
