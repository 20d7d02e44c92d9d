"""The model card of an export, filled from the run that trained the model."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlff_lightning import __version__
from rlff_lightning.commands.export_source import Source, read_config

_METHODS = {
    "modules.policy.": "group relative policy optimization (GRPO, arXiv:2402.03300) on "
    "future-oriented rewards (RLFF-ESC, arXiv:2508.12935)",
    "modules.supervised.": "supervised warm start on the supporter's replies of dialogues",
    "modules.reward_model.": "regression of the future-oriented reward of a reply in its context "
    "(RLFF-ESC, arXiv:2508.12935)",
}
_TOLD = (
    "learning_rate",
    "warmup_steps",
    "warmup_fraction",
    "weight_decay",
    "seeker_weight",
    "objective",
    "rollout",
    "scorers",
    "chat",
    "reads",
    "head",
)
_LIMITS = """\
This is research software. The model is no therapist and no substitute for one; what it says may be
wrong or harmful, and how it replies to a person in crisis was not established. Do not put it before
people who look for help. A success rate is a property of the judge and of the simulated seekers
beside the policy: it is no evidence that a person would be helped. The terms of the base model and
of the training data apply to the weights.
"""


def write_card(source: Source, folder: Path, *, base: str, what: str) -> None:
    """Write `README.md`: base, method, data, success rate with its judge, limits.

    Args:
        source: What was exported.
        folder: The export.
        base: Name or path of the base model, empty if unknown.
        what: The export in words.
    """
    is_hub_name = bool(base) and not _is_local(base, source)
    parts = [
        _front_matter(base if is_hub_name else "", folder),
        f"# {what[0].upper() + what[1:]} trained by RLFF-Lightning\n",
        _origin(source, base if is_hub_name else "a local model", what),
        _data(source),
        _results(source),
        _settings(source),
        f"## Limits\n\n{_LIMITS}",
    ]
    text = "\n".join(part for part in parts if part)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _is_local(base: str, source: Source) -> bool:
    return Path(base).exists() or bool(source.run and (source.run / base).exists())


def _front_matter(base: str, folder: Path) -> str:
    is_adapter = (folder / "adapter_config.json").is_file()
    is_reward = (folder / "reward_head.json").is_file()
    lines = [f"base_model: {base}"] if base else []
    lines += [f"library_name: {'peft' if is_adapter else 'transformers'}"]
    lines += [f"pipeline_tag: {'text-classification' if is_reward else 'text-generation'}"]
    lines += ["tags: [rlff-lightning, dialogue, emotional-support]"]
    return "---\n" + "\n".join(lines) + "\n---\n"


def _origin(source: Source, base: str, what: str) -> str:
    method = next((text for name, text in _METHODS.items() if name in source.module), "")
    precision = source.backbone.get("quantize")
    lines = [f"- Base model: {base}"] if base else []
    lines += [f"- Method: {method}"] if method else []
    lines += [f"- Made with: RLFF-Lightning {__version__}"]
    if precision and "adapter" in what:
        lines.append(
            f"- Trained on a base in 4 bits ({precision}): load the base so for its scores"
        )
    elif precision:
        lines.append(
            f"- Trained on a base in 4 bits ({precision}); these weights are what the 4 bits stand "
            "for, with the adapter added"
        )
    return "\n".join(lines) + "\n"


def _data(source: Source) -> str:
    """List the files and worlds that the run's stages name."""
    rows = []
    for stage, config in _stages(source):
        found = [Path(text).name for key, text in _leaves(config) if key in ("paths", "exclude")]
        classes = [
            text.rpartition(".")[2]
            for key, text in _leaves(config)
            if key == "class_path" and (".data." in text or "Seeker" in text or "Contexts" in text)
        ]
        told = ", ".join(dict.fromkeys([*found, *classes]))
        rows += [f"- `{stage}`: {told}"] if told else []
    return "## Data\n\n" + "\n".join(rows) + "\n" if rows else ""


def _stages(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    if source.run is None or source.stage is None:
        return
    configs = {f.parent.name: read_config(f) for f in sorted(source.run.glob("*/config.yaml"))}
    is_marked = any(source.run.glob("*/done.json")) or (source.run / "summary.json").is_file()
    # Stages that were run one by one leave no marker. If none takes another's files, what lies
    # beside this one is nobody's run.
    if is_marked or any(_reads_another(name, configs) for name in configs):
        yield from configs.items()
    else:
        yield source.stage.name, source.config


def _reads_another(name: str, configs: Mapping[str, dict[str, Any]]) -> bool:
    folders = {text.partition("/")[0] for _, text in _leaves(configs[name]) if "/" in text}
    return bool(folders & (configs.keys() - {name}))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, key)
    elif isinstance(value, str):
        yield key, value


def _results(source: Source) -> str:
    summary = _summary(source)
    policies = summary.get("policies") or {}
    rows = [
        f"| {_marked(name, source)} | {row['success_rate']:.3f} | {row['ci95'][0]:.3f} to "
        f"{row['ci95'][1]:.3f} | {_turns(row)} | {row['episodes']} |"
        for name, row in policies.items()
        if {"success_rate", "ci95", "average_turns", "episodes"} <= row.keys()
    ]
    if not rows:
        return ""
    judge = summary.get("judge") or {}
    name = judge.get("name", "unnamed") if isinstance(judge, Mapping) else judge
    columns = ("policy", "success rate", "95 % interval", "average turns", "episodes")
    head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
    return (
        f"## Goal completion\n\nJudge: {name}. The same simulated people met every policy.\n\n"
        + "\n".join([head, *rows])
        + "\n"
    )


def _summary(source: Source) -> dict[str, Any]:
    """Find the run's summary, or that of a stage which evaluated policies."""
    if source.run is None or source.stage is None:
        return {}
    stages = [source.run / name for name, _ in _stages(source)]
    for folder in dict.fromkeys((source.run, source.stage, *stages)):
        file = folder / "summary.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if found.get("policies"):
            return dict(found)
    return {}


def _turns(row: Mapping[str, Any]) -> str:
    ends = [row.get(f"average_turns_{end}") for end in ("low", "high")]
    # Summaries of before these were measured have none.
    between = "" if None in ends else f" ({ends[0]:.2f} to {ends[1]:.2f})"
    return f"{row['average_turns']:.2f}{between}"


def _marked(name: str, source: Source) -> str:
    """Mark the policy whose evaluation named this model's folder."""
    if source.stage is None:
        return name
    own = {f"{source.stage.name}/{kind}" for kind in ("model", "adapter")}
    for _, config in _stages(source):
        arguments = (config.get("model") or {}).get("init_args") or {}
        policies = arguments.get("policies") or {}
        if own & {text for _, text in _leaves(policies.get(name))}:
            return f"**{name}** (this model)"
    return name


def _settings(source: Source) -> str:
    told = {key: source.arguments[key] for key in _TOLD if source.arguments.get(key) is not None}
    if not told:
        return ""
    if source.backbone:
        told["model"] = {k: v for k, v in source.backbone.items() if k != "model_name_or_path"}
    text = json.dumps(told, indent=1, ensure_ascii=False, default=str)
    return f"## Training settings\n\n```json\n{text}\n```\n"
