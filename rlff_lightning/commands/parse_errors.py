"""Tells a refused config or option in one line: the key, what was found, what is accepted."""

import difflib
import importlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path

_CLASS = re.compile(r"Problem with given class_path '(?P<name>[^']+)'")
_KEY = re.compile(r'Parser key "(?P<name>[^"]+)"')
_OPTION = re.compile(
    r"(?:[Oo]ption '(?P<option>[^']+)'|unrecognized arguments: -*(?P<argument>[^ =]+))"
)
_MISSING_FILE = re.compile(r"Expected a path but (?P<name>\S+\.(?:ya?ml|json)) either")
_STRUCTURE = ("Parser key", "Does not validate", "Subtypes:", "Errors:", "Given value type:")


def explain(message: str, *, options: Sequence[str], configs: Sequence[Path]) -> str:
    """Rewrite the parser's report, which may be a page long, as one line.

    Args:
        message: What jsonargparse reported.
        options: Every key that the verb accepts, dotted.
        configs: The files named by `--config`, to tell the line of a misspelt key.
    """
    keys, class_path, lines = _descend(message.splitlines())
    where = ".init_args.".join(keys)
    if missing := _MISSING_FILE.search(message):
        return f"{where}: file {missing['name']} is missing"
    if (option := _OPTION.search("\n".join(lines))) and "before subcommand" not in message:
        name = option["option"] or option["argument"]
        accepted = _parameters(class_path) if class_path else list(options)
        groups = {key.partition(".")[0] for key in options}
        if not class_path and name.partition(".")[0] not in groups:
            name, accepted = name.partition(".")[0], sorted(groups)
        owner = f" of {class_path.rpartition('.')[2]}" if class_path else ""
        dotted = f"{where}.init_args.{name}" if where else name
        return f"{_line_of(name, configs)}unknown key {dotted}{owner}; {_closest(name, accepted)}"
    reason = _reason(lines)
    if reason.startswith(("Problems parsing config", "Unexpected config")):
        names = ", ".join(map(str, configs)) or "--config"
        text = reason.replace(' in "<unicode string>",', "").removesuffix("Unexpected config:")
        return f"{names}: {text or 'the file is empty'}"
    return f"{where}: {reason}" if where else reason


def _descend(lines: list[str]) -> tuple[list[str], str, list[str]]:
    """Follow the first class that was found but refused, down to the innermost."""
    keys: list[str] = []
    class_path = ""
    while True:
        first = next((i for i, line in enumerate(lines) if _CLASS.search(line)), len(lines))
        keys += [match["name"] for line in lines[: first + 1] if (match := _KEY.search(line))][:1]
        if first == len(lines):
            return keys, class_path, lines
        class_path = _CLASS.search(lines[first])["name"]  # type: ignore[index]
        indent = _indent(lines[first])
        inner = lines[first + 1 :]
        end = next((i for i, line in enumerate(inner) if _indent(line) <= indent), len(inner))
        lines = inner[:end]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _reason(lines: Sequence[str]) -> str:
    text = [line.strip().removeprefix("- ") for line in lines if line.strip()]
    text = [_KEY.sub("", line).lstrip(": ") for line in text if not line.startswith(_STRUCTURE[1:])]
    text = [re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", line) for line in text if line]
    text = [line.replace("typing.", "") for line in text if line != "Expected a NoneType"]
    expected = [line.removeprefix("Expected a ") for line in text if line.startswith("Expected a ")]
    given = [line for line in text if line.startswith("Given value: ")]
    if given and expected and len(expected) + len(given) == len(text):
        value = given[0].removeprefix("Given value: ")
        return f"must be {' or '.join(expected)}, got {value}"
    return " ".join(line for line in text if line not in given or len(text) == 1)


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    accepted: list[str] = []
    for owner in inspect.getmro(getattr(importlib.import_module(module), name)):
        parameters = inspect.signature(owner).parameters.values() if owner is not object else []
        accepted += [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return accepted


def _closest(name: str, accepted: Sequence[str]) -> str:
    if close := difflib.get_close_matches(name, accepted, n=1):
        return f"did you mean {close[0]}?"
    if len(accepted) > 40:
        return "`rlff VERB --help` lists what is accepted"
    return f"accepted are {', '.join(accepted)}" if accepted else "it accepts none"


def _line_of(key: str, configs: Sequence[Path]) -> str:
    pattern = re.compile(rf"\s*(?:- )?{re.escape(key.rpartition('.')[2])}\s*:")
    for config in configs:
        for number, line in enumerate(config.read_text().splitlines(), start=1):
            if pattern.match(line):
                return f"{config}:{number}: "
    return ""
