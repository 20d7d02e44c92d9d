"""A run as the stages write it, small, with texts that would break a careless page."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NASTY = "</script><script>window.harmed = true</script><img src=x onerror='window.harmed=1'> & 😀"


def write_run(folder: Path, *, text: str = NASTY) -> Path:
    """Two policies with three people each, a context with two candidates, a group, curves."""
    _evaluate(folder / "evaluate", text)
    _futures(folder / "futures" / "futures", text)
    _policy(folder / "policy", text)
    _reward(folder / "reward_test")
    _quality(folder / "quality", text)
    return folder


def _evaluate(folder: Path, text: str) -> None:
    (folder / "episodes").mkdir(parents=True)
    rates = {"sft": 1 / 3, "rlff": 2 / 3}
    policies = {
        name: {
            "success_rate": rate,
            "ci95": [rate / 2, min(1.0, rate * 1.4)],
            "average_turns": 1.5,
            "average_turns_low": 1.25,
            "average_turns_high": 1.75,
            "episodes": 3,
            "success_rate_at/1": 0.0,
            "success_rate_at/2": rate,
            "critic_value_carried_at/1": -0.5,
            "critic_value_carried_at/2": rate - 0.5,
            "outcome_share/same": 1 - rate,
            "outcome_share/solved": rate,
            "outcome_share/unparsed": 0.0,
        }
        for name, rate in rates.items()
    }
    judge = {"name": "scripted <b>judge</b>", "max_turns": 2}
    agreement = {"kappa_success": 0.4, "kappa_outcome": None, "difference": -0.125}
    entry = {
        "first_judge": {"success_rate": 0.5, "ci95": [0.25, 0.75]},
        "second_judge": {"success_rate": 0.625, "ci95": [0.375, 0.875]},
        "agreement": {**agreement, "difference_low": -0.5, "difference_high": 0.25},
    }
    held_out = {
        "judge": {"name": "another judge", "hash": "0a1b"},
        "people": {"worst": {"rlff": entry}},
    }
    summary = {"policies": policies, "judge": judge, "held_out": held_out}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "crisis").mkdir()
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "Call 112."}]
    row = {"id": "plain-1", "points_to_help": True, "harms": [], "messages": messages}
    (folder / "crisis" / "rlff-0.jsonl").write_text(json.dumps(row) + "\n")
    for policy, solved in (("sft", 1), ("rlff", 2)):
        rows = [
            {
                "id": f"person-{number}",
                "problem": ("exam", "moving", "sleep")[number],
                "situation": f"Trouble {number}. {text}",
                "is_success": number < solved,
                "outcomes": ["same", "solved" if number < solved else "same"],
                "values": [-0.5, 1.0 if number < solved else -0.5],
                "messages": [
                    {"role": "seeker", "content": f"I am stuck, {number}. {text}"},
                    {"role": "supporter", "content": "What happened?", "reasoning": "explore"},
                    {"role": "seeker", "content": "Much."},
                    {"role": "supporter", "content": f"I hear you, says {policy}."},
                    {"role": "seeker", "content": "Thank you."},
                ],
            }
            for number in range(3)
        ]
        lines = [json.dumps(row) for row in rows]
        (folder / "episodes" / f"{policy}-0.jsonl").write_text("\n".join(lines[:2]) + "\n")
        (folder / "episodes" / f"{policy}-1.jsonl").write_text(lines[2] + "\n")


def _futures(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    said = [{"role": "seeker", "text": f"So it is. {text}"}]
    future = {
        "values": [0.5],
        "is_success": False,
        "messages": [{"role": "seeker", "text": f"A future. {text}", "reasoning": ""}],
    }
    rows = [
        {
            "context_id": "person-7/t0",
            "problem": "exam",
            "situation": "An exam.",
            "context": json.dumps(said),
            "reply": f"candidate {value}",
            "reasoning": "why",
            "origin": "policy",
            "value": value,
            "standard_error": 0.1,
            "futures": json.dumps([future, future]),
        }
        for value in (-0.25, 0.75)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-000-00000.parquet")


def _policy(folder: Path, text: str) -> None:
    (folder / "completions").mkdir(parents=True)
    rows = [
        {
            "iteration": 1,
            "context_id": "person-9",
            "turn": 1,
            "seeker": text,
            "completion": f"<think>plan {place}</think>said {place}",
            "is_finished": place == 0,
            "advantage": 1.0 - 2 * place,
            "reward/future": 0.3 - place,
        }
        for place in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "completions/iteration-000001.parquet")
    steps = [f"{step},0,{0.1 * step:.1f},{1 / (1 + step):.3f}," for step in range(20)]
    head = "step,epoch,rollout/reward,train/other,train/never"
    (folder / "metrics.csv").write_text("\n".join([head, *steps]) + "\n")


def _reward(folder: Path) -> None:
    folder.mkdir()
    figures = {"pairwise_accuracy": 0.7, "pairwise_ceiling": 0.8, "spearman": 0.5, "mse": 0.1}
    points = [
        {"predicted": predicted, "observed": predicted + 0.1, "replies": 10}
        for predicted in (-0.5, 0.0, 0.5)
    ]
    quality = {"models": {"reward_model": figures, "training_mean": {"spearman": None}}}
    (folder / "quality.json").write_text(json.dumps({**quality, "reliability": points}))


def _quality(folder: Path, text: str) -> None:
    (folder / "replies").mkdir(parents=True)
    row = {
        "words": 9.0,
        "bleu_2": 0.1,
        "bleu_2_low": 0.05,
        "bleu_2_high": 0.15,
        "strategy_share/question": 0.75,
        "rouge_l": 0.25,
        "rouge_l_low": None,
        "distinct_1": 0.5,
    }
    human = {"words": 12.0, "distinct_1": 0.6}
    for rated, value in ((row, 3.25), (human, None)):
        rated |= {"judged/fluency": value, "judged/unparsed": 0.125}
    compared = {"first": "rlff", "second": "human", "win_rate": 0.625, "win_rate_low": 0.5}
    compared |= {"win_rate_high": 0.75, "wins": 31, "ties": 3, "torn": 2, "losses": 17}
    summary = {
        "contexts": 1,
        "dialogues": 1,
        "supporters": {"rlff": row, "human": human},
        "judge": {"name": "a judge of replies", "hash": "abc"},
        "comparisons": [compared],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    reply = {
        "id": "talk-1/t1",
        "problem": "exam",
        "messages": [{"role": "seeker", "content": text}],
        "replies": {
            "rlff": {"role": "supporter", "content": "A policy's reply."},
            "human": {"role": "supporter", "content": "A human's reply."},
        },
        "ratings": {"rlff": {"fluency": 4, "overall": None}},
    }
    (folder / "replies" / "0.jsonl").write_text(json.dumps(reply) + "\n")
