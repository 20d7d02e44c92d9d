"""Mistakes that every engine refuses alike: requests that do not fit, folders without a model."""

from collections.abc import Sequence
from pathlib import Path

from rlff_lightning.engines.base import Sampling
from rlff_lightning.errors import UserError
from rlff_lightning.models.model_folder import check_name


def check_sampling(owner: str, sampling: Sampling) -> None:
    """Refuse what an engine would draw differently than asked.

    Raises:
        UserError: If the temperature is one that vLLM refuses or moves, or if no token may be
            drawn.
    """
    if sampling.temperature != 0 and not 0.01 <= sampling.temperature <= 2:
        raise UserError(
            f"{owner}: temperature must be 0 (greedy) or in [0.01, 2], got {sampling.temperature}"
        )
    if sampling.max_tokens < 1:
        raise UserError(f"{owner}: max_tokens must be at least 1, got {sampling.max_tokens}")


def check_requests(
    owner: str, prompts: Sequence[Sequence[int]], num_new_tokens: Sequence[int], max_model_len: int
) -> None:
    """Refuse prompts that are empty or leave no room for their completion.

    Args:
        owner: Engine and method, as the message names them.
        prompts: Token ids of each prompt.
        num_new_tokens: Tokens that must fit behind each prompt.
        max_model_len: Most tokens of prompt and completion together.

    Raises:
        UserError: If a prompt is empty or too long.
    """
    for index, (prompt, room) in enumerate(zip(prompts, num_new_tokens, strict=True)):
        if not prompt:
            raise UserError(f"{owner}: prompt {index} must have a token, got none")
        if len(prompt) + room > max_model_len:
            raise UserError(
                f"{owner}: prompt {index} must have at most {max_model_len - room} tokens "
                f"(max_model_len {max_model_len} less {room} to generate), got {len(prompt)}; "
                "shorten the context or raise max_model_len"
            )


def check_model_folder(owner: str, model_name_or_path: str) -> None:
    """Refuse a folder that holds no model; a name without a folder is a hub's business.

    Raises:
        UserError: If the folder has no ``config.json`` or no safetensors weights, or if a path
            was given that does not exist.
    """
    check_name(model_name_or_path)
    folder = Path(model_name_or_path)
    field = f"{owner}.model_name_or_path"
    if model_name_or_path.startswith("~"):
        raise UserError(f"{field} must be a path without '~', got {model_name_or_path}")
    if not folder.is_dir():
        return
    for pattern in ("config.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise UserError(f"{field} must be a folder with {pattern}, found none in {folder}")
