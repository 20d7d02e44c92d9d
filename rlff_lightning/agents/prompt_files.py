"""Prompts as files: shipped ones that a user can copy and change, known by the hash of their text.

A prompt is a jinja2 template that consists of named blocks, rendered in a sandbox. Values are
inserted as text: braces in a message are only letters.
"""

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlff_lightning.agents.reply_judge import DIMENSIONS
from rlff_lightning.errors import UserError

PromptRole = Literal["seeker", "supporter", "critic", "judge"]
"""Who a prompt is for."""

_BLOCKS: dict[PromptRole, tuple[str, ...]] = {
    "seeker": ("system", "begin", "labels"),
    "supporter": ("system", "begin", "labels"),
    "critic": ("system", "user"),
    "judge": ("system", "rate", "compare", *DIMENSIONS),
}
_ENDING = ".jinja"


class Prompt:
    """What a role's language model is told.

    Args:
        role: Whom it is for.
        label: File name and hash, as results state them.
        template: Parsed text.
        where: File, as complaints name it.
    """

    def __init__(self, role: PromptRole, label: str, template: Template, where: str) -> None:
        self.role = role
        self.label = label
        self._template = template
        self._where = where

    def block(self, name: str, values: Mapping[str, object] | None = None) -> str:
        """Render one block.

        Raises:
            UserError: If the template uses a value that there is none of, or one it may not.
        """
        context = self._template.new_context(dict(values or {}))
        try:
            text = "".join(self._template.blocks[name](context))
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise UserError(f"{self._where}: block {name!r}: {_line(error)}") from error
        return text.strip()

    def labels(self) -> tuple[str, ...]:
        """List the names that begin a speaker's line."""
        return tuple(name.strip() for name in self.block("labels").split(",") if name.strip())


def load_prompt(role: PromptRole, language: str = "en", folder: str | None = None) -> Prompt:
    """Read a role's prompt.

    Args:
        role: Whom it is for.
        language: Of the prompt; with ``folder`` any name, without it one that is shipped.
        folder: Where ``<role>.<language>.jinja`` lies; ``None`` takes the shipped file.

    Raises:
        UserError: If there is no such file, it is no template, or it lacks a block.
    """
    name = f"{role}.{language}{_ENDING}"
    path = Path(folder) / name if folder is not None else None
    text = _shipped(role, language) if path is None else _read(path)
    where = str(path or name)
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    try:
        template = environment.from_string(text)
    except TemplateSyntaxError as error:
        raise UserError(f"{where}:{error.lineno}: no jinja2 template: {_line(error)}") from error
    missing = [block for block in _BLOCKS[role] if block not in template.blocks]
    if missing:
        raise UserError(
            f"{where}: a {role}'s prompt must have the blocks {', '.join(_BLOCKS[role])}; "
            f"{', '.join(missing)} is missing"
        )
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return Prompt(role, f"{role}.{language} {digest}", template, where)


def languages() -> list[str]:
    """List the languages that prompts are shipped in."""
    names = [Path(file.name) for file in _folder().iterdir() if file.name.endswith(_ENDING)]
    return sorted({name.stem.partition(".")[2] for name in names})


def copy_prompts(folder: str | Path, language: str = "en") -> list[Path]:
    """Copy the shipped prompts of a language, to be changed; files that exist are left alone.

    Args:
        folder: Where to; made if missing.
        language: Which ones.

    Returns:
        The files that were written.
    """
    written = []
    for role in _BLOCKS:
        text = _shipped(role, language)
        path = Path(folder) / f"{role}.{language}{_ENDING}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def _folder() -> Traversable:
    return files("rlff_lightning.agents") / "prompts"


def _shipped(role: PromptRole, language: str) -> str:
    if language not in languages():
        raise UserError(
            f"language must be one of {', '.join(languages())}, got {language!r}; for another one "
            "give a folder of prompts"
        )
    return (_folder() / f"{role}.{language}{_ENDING}").read_text(encoding="utf-8")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no prompt to be read: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
