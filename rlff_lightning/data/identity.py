"""What a run is: the settings, files and models that its rows depend on, and nothing else."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

Identity = dict[str, Any]
"""Plain values by dotted key; a file or a folder is known by its digest."""

WITHOUT_EFFECT = frozenset(
    {
        # How much is done, in what portions, and how it is stored.
        *(
            "num_contexts",
            "batch_size",
            "batches_at_once",
            "retry_quarantined",
            "counts",
            "max_model_len",
        ),
        # How fast engines and servers are, where they stand, and when they give up.
        *("max_num_seqs", "max_num_batched_tokens", "kv_cache_gib", "gpu_memory_utilization"),
        *("keep_prefixes", "with_logps", "enable_sleep"),
        *("base_url", "api_key_variable", "concurrency", "timeout_s"),
        *("urls", "weights_folder", "health_interval_s"),
        *("max_attempts", "max_wait_s", "max_outage_s", "max_empty_retries", "max_prompt_tokens"),
    }
)
"""Names of settings that change no row."""

_FOLDER_KEYS = ("path", "paths", "folder", "dir", "prompts")
_LONGEST = 200


def identity_of(settings: Mapping[str, Any]) -> Identity:
    """Flatten a run's settings into what decides its rows.

    ``class_path`` and ``init_args`` give way to shorter keys; a text that names a file, or under a
    key such as ``model_name_or_path`` a folder, becomes the digest of what it holds.

    Args:
        settings: Plain values, nested, such as a resolved config.

    Returns:
        The identity; two runs with equal ones write the same rows.
    """
    _digest.cache_clear()
    return dict(_leaves(settings, ()))


def difference(then: Identity, now: Identity) -> str:
    """Name what differs between two runs in one line; empty if nothing does."""
    keys = sorted(key for key in then.keys() | now.keys() if _at(then, key) != _at(now, key))
    if not keys:
        return ""
    key = keys[0]
    more = f" (and {len(keys) - 1} more)" if keys[1:] else ""
    return f"{key} was {_at(then, key)}, is {_at(now, key)}{more}"


def describe(value: Any) -> Any:
    """Describe an object by its class and public attributes, for runs made without a config.

    So a class keeps every setting that changes its rows in a public attribute.

    Args:
        value: Any object; a tensor or module counts by its class alone.

    Returns:
        Plain values, nested as ``class_path`` and attributes.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [describe(item) for item in items]
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if type(value).__module__.startswith("torch"):
        return {"class_path": name}
    names = (
        [field.name for field in fields(value)]
        if is_dataclass(value)
        else [key for key in getattr(value, "__dict__", {}) if not key.startswith("_")]
    )
    return {"class_path": name, **{key: describe(getattr(value, key)) for key in names}}


def sha256_of(path: Path) -> str:
    """Hash a file's content, or the names and contents of a folder's files."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        content = [(file.relative_to(path).as_posix(), sha256_of(file)) for file in files]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def may_be_path(text: str) -> bool:
    """Tell whether a text is short enough to name a file, so that asking for it cannot fail."""
    if not 0 < len(text) < 1024 or "\0" in text:
        return False
    return all(len(part.encode()) <= 255 for part in text.split("/"))


def _leaves(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in WITHOUT_EFFECT:
                yield from _leaves(item, keys if key == "init_args" else (*keys, str(key)))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _leaves(item, (*keys, str(place)))
    else:
        name = ".".join(key for key in keys if key != "class_path") or "class"
        yield name, _known(value, keys)


def _known(value: Any, keys: tuple[str, ...]) -> Any:
    if not isinstance(value, str):
        return value
    named = [key for key in keys if not key.isdigit()]
    if may_be_path(value):
        is_folder = bool(named) and named[-1].endswith(_FOLDER_KEYS) and Path(value).is_dir()
        if is_folder or Path(value).is_file():
            return f"sha256:{_digest(value)[:16]}"
    if len(value) > _LONGEST:
        return f"{value[:40]}… sha256:{hashlib.sha256(value.encode()).hexdigest()[:16]}"
    return value


@lru_cache
def _digest(path: str) -> str:
    """Roles often share one model: it is read once."""
    return sha256_of(Path(path))


def _at(identity: Identity, key: str) -> str:
    return json.dumps(identity[key], ensure_ascii=False) if key in identity else "left out"
