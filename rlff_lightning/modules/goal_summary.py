"""The result of an evaluation as one JSON object; every rate stands beside its judge."""

from collections.abc import Mapping
from typing import Any

from rlff_lightning.metrics.goal_agreement import Agreement
from rlff_lightning.modules.goal_figures import Part
from rlff_lightning.modules.goal_settings import MAIN

_NAMED = {"success_rate", "average_turns", "episodes", "success_rate_low", "success_rate_high"}


def summarise(
    figures: Mapping[Part, list[dict[str, float]]],
    agreements: Mapping[Part, Agreement],
    crisis: Mapping[str, dict[str, float]],
    judges: list[dict[str, str]],
    protocol: Mapping[str, Any],
) -> dict[str, Any]:
    """Put all figures together.

    Args:
        figures: By part, one dictionary per judge.
        agreements: By part, where there are two judges.
        crisis: Figures of crisis care by policy.
        judges: Name and hash of each, the deciding one first.
        protocol: Turns, episodes and seed.

    Returns:
        ``policies``, ``judge``, ``protocol``; with anything held out ``held_out`` as well.
    """
    policies = {
        part.policy: _entry(by_judge[0])
        for part, by_judge in figures.items()
        if part.people == MAIN
    }
    for name, found in crisis.items():
        policies[name]["crisis"] = _rounded(found)
    summary: dict[str, Any] = {
        "policies": policies,
        "judge": {**judges[0], "max_turns": protocol["max_turns"]},
        "protocol": dict(protocol),
    }
    held_out: dict[str, Any] = {}
    if len(judges) > 1:
        held_out["judge"] = judges[1]
    for part, by_judge in figures.items():
        assert part.people is not None
        if part.people != MAIN or len(judges) > 1:
            entry = {"first_judge": _entry(by_judge[0])}
            if len(judges) > 1:
                entry["second_judge"] = _entry(by_judge[1])
                entry["agreement"] = _rounded(agreements[part]._asdict())
            people = held_out.setdefault("people", {}).setdefault(part.people, {})
            people[part.policy] = entry
    return summary | ({"held_out": held_out} if held_out else {})


def _entry(values: Mapping[str, float]) -> dict[str, Any]:
    values = _rounded(values)
    return {
        "success_rate": values["success_rate"],
        "average_turns": values["average_turns"],
        "episodes": int(values["episodes"]),
        "ci95": [values["success_rate_low"], values["success_rate_high"]],
        **{key: value for key, value in values.items() if key not in _NAMED},
    }


def _rounded(values: Mapping[str, float]) -> dict[str, Any]:
    # Figures come as float32: more digits than these are its rounding. JSON knows no NaN.
    return {
        key: value
        if isinstance(value, int)
        else (float(f"{value:.7g}") if value == value else None)
        for key, value in values.items()
    }
