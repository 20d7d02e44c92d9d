"""The charts of a run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rlff_lightning.report.charts import colour, dashes, draw, soft
from rlff_lightning.report.items import Item
from rlff_lightning.report.run_folder import Curve, RunFolder

_FIRST = (
    "rollout/live_success",
    "rollout/reward",
    "val/pairwise_accuracy",
    "rollout/length",
    "train/kl",
    "train/entropy",
)
"""Keys that say most, in this order; what else was logged follows under a fold."""

_SMOOTHED = 5
_MAX_POINTS = 2000


class Chart(NamedTuple):
    """A chart with its caption."""

    title: str
    """What is drawn."""
    svg: Markup
    """The drawing."""
    note: str = ""
    """How to read it."""


def success_by_turn(policies: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """Draw SR@t of every policy; none if no policy has it."""
    curves = _by_turn(policies, "success_rate_at")
    if not curves:
        return None

    def paint(axes: Axes) -> None:
        for number, (name, curve) in enumerate(curves.items()):
            turns = range(1, len(curve) + 1)
            line = _line(number)
            axes.step(turns, curve, where="post", label=name, **line)
            axes.plot(turns, curve, ".", color=colour(number), markersize=5)
        axes.set(xlabel="supporter turns", ylim=(-0.03, 1.03))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    ends = ", ".join(f"{name} {curve[-1]:.0%}" for name, curve in curves.items())
    svg = draw("by-turn", f"Success rate by turn; at the end: {ends}", paint)
    return Chart("Goal reached within t turns", svg)


def value_by_turn(policies: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """Draw how seekers fare turn by turn, over all episodes; none if no policy has it."""
    curves = _by_turn(policies, "critic_value_carried_at")
    if not curves:
        return None

    def paint(axes: Axes) -> None:
        for number, (name, curve) in enumerate(curves.items()):
            turns = range(1, len(curve) + 1)
            line = _line(number)
            axes.plot(turns, curve, marker=".", markersize=5, label=name, **line)
        axes.set(xlabel="supporter turns", ylim=(-1.05, 1.05))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    ends = ", ".join(f"{name} {curve[-1]:+.2f}" for name, curve in curves.items())
    svg = draw("value-by-turn", f"Mean critic value by turn; at the end: {ends}", paint)
    note = "\u22121 is worse, +1 solved; an episode that has ended keeps its last value."
    return Chart("How seekers fare, turn by turn", svg, note)


def _by_turn(policies: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, list[float]]:
    """Collect a figure's values from turn 1 on by policy; policies without it are left out."""
    curves: dict[str, list[float]] = {name: [] for name in policies}
    for name, row in policies.items():
        while (value := row.get(f"{key}/{len(curves[name]) + 1}")) is not None:
            curves[name].append(float(value))
    return {name: curve for name, curve in curves.items() if curve}


def learning_curves(run: RunFolder) -> tuple[list[Chart], list[Chart]]:
    """Draw what was logged, one chart per key with a line per stage.

    Returns:
        What says most, and the rest.
    """
    by_key: dict[str, dict[str, Curve]] = {}
    for stage in run.stages:
        for key, curve in stage.curves().items():
            if len(curve) > 1:
                by_key.setdefault(key, {})[stage.name] = curve
    stages = sorted({name for curves in by_key.values() for name in curves})
    charts = {key: _curves(key, by_key[key], stages) for key in sorted(by_key)}
    first = [charts[key] for key in _FIRST if key in charts]
    return first, [chart for key, chart in charts.items() if key not in _FIRST]


def _curves(key: str, curves: Mapping[str, Curve], stages: Sequence[str]) -> Chart:
    def paint(axes: Axes) -> None:
        for name, curve in curves.items():
            steps = [step + 1 for step, _ in curve]
            values = [value for _, value in curve]
            line, style = colour(stages.index(name)), dashes(stages.index(name))
            if len(values) > 2 * _SMOOTHED:
                axes.plot(steps, values, color=line, alpha=0.25, linewidth=1)
                values = _running_mean(values)
            axes.plot(steps, values, color=line, linestyle=style, label=name)
        axes.set(xlabel="optimizer step")
        axes.margins(x=0.02)

    svg = draw(f"curve-{_slug(key)}", f"{key} over optimizer steps", paint)
    return Chart(key, svg)


def _running_mean(values: Sequence[float]) -> list[float]:
    windows = (values[max(0, end - _SMOOTHED) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def reliability(run: RunFolder) -> Chart | None:
    """Draw mean label over mean prediction of tested reward models; none if no stage wrote it."""
    written = {stage.name: stage.reward_quality.get("reliability") for stage in run.stages}
    found = {name: points for name, points in written.items() if points}
    if not found:
        return None

    def paint(axes: Axes) -> None:
        for number, (name, points) in enumerate(found.items()):
            predicted = [point["predicted"] for point in points]
            observed = [point["observed"] for point in points]
            largest = max(point["replies"] for point in points)
            sizes = [8 + 60 * point["replies"] / largest for point in points]
            axes.plot(
                predicted, observed, color=colour(number), linestyle=dashes(number), alpha=0.5
            )
            axes.scatter(predicted, observed, s=sizes, color=colour(number), label=name)
        ends = [*axes.get_xlim(), *axes.get_ylim()]
        axes.axline((min(ends), min(ends)), slope=1, color=soft(), linestyle="--", linewidth=1)
        axes.set(xlabel="predicted reward", ylabel="measured reward")

    svg = draw("reliability", "Measured reward over predicted reward, in bins", paint)
    note = "On the dashed line the reward model means what it says; a dot grows with its replies."
    return Chart("Reliability of the reward model", svg, note)


def reward_by_length(items: Sequence[Item]) -> list[Chart]:
    """Draw reward against the length of a reply, of simulated labels and of terms in training."""
    labels: dict[str, list[tuple[float, float]]] = {}
    terms: dict[str, list[tuple[float, float]]] = {}
    for item in items:
        for branch in item.get("branches", []):
            count = len(branch["text"].split())
            if item["kind"] == "futures":
                labels.setdefault(item["group"], []).append((count, branch["value"]))
            elif item["kind"] == "samples":
                for term, reward in branch["rewards"].items():
                    terms.setdefault(f"{item['group']}: {term}", []).append((count, reward))
    charts = [
        _scatter("label-length", "Simulated reward against length", labels),
        _scatter("reward-length", "Reward in training against length, by term", terms),
    ]
    return [chart for chart in charts if chart]


def _scatter(
    name: str, title: str, groups: Mapping[str, Sequence[tuple[float, float]]]
) -> Chart | None:
    if not groups:
        return None

    def paint(axes: Axes) -> None:
        for number, (group, points) in enumerate(groups.items()):
            shown = points[:: max(len(points) // _MAX_POINTS, 1)]
            counts, rewards = zip(*shown, strict=True)
            axes.scatter(counts, rewards, s=7, color=colour(number), alpha=0.35, linewidths=0)
            means = _means(points)
            line = _line(number)
            axes.plot(*zip(*means, strict=True), label=group, **line)
        axes.set(xlabel="words of the reply", ylabel="reward")

    svg = draw(name, f"{title}; lines are means", paint)
    return Chart(title, svg, "Of the replies that can be read below; lines are means by length.")


def _means(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Mean reward by length, with neighbours, where there are enough replies to speak of one."""
    reach = 1
    lengths = sorted({count for count, _ in points})
    near = {
        length: [reward for count, reward in points if abs(count - length) <= reach]
        for length in lengths
    }
    enough = max(3, len(points) // 100)
    means = [(length, sum(r) / len(r)) for length, r in near.items() if len(r) >= enough]
    return means or [(lengths[0], sum(r for _, r in points) / len(points))]


def _line(number: int) -> dict[str, Any]:
    return {"color": colour(number), "linestyle": dashes(number)}


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)
