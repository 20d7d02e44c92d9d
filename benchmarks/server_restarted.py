"""Kill the server of a collection in the middle, start it again, and look for what was lost.

    python benchmarks/server_restarted.py
    python benchmarks/server_restarted.py --contexts 60 --away 60

A small model, trained before, plays all three roles behind vLLM's server; ``rlff predict`` collects
as a user's command. The server and its processes are killed with SIGKILL once the first part is
stored, stay away for a while, and start again on the same port. The first collection keeps the
defaults of its retries, so that all contexts should finish; the second one waits 3 s only, so that
contexts are given up, and ``--retry-quarantined`` takes them up. The command ends with status 1 if
a context is missing or doubled, or a reason is missing; it prints how many rows equal those of an
undisturbed collection.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pocket_models import train_pocket
from vllm_server import LocalServer

from rlff_lightning.data.futures_store import FuturesStore, Quarantined
from rlff_lightning.data.store import read_finished


def main() -> int:
    """Collect undisturbed, then twice with a restart, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--contexts", type=int, default=32)
    parser.add_argument("--away", type=float, default=30.0, help="seconds before it starts again")
    parser.add_argument("--model", type=Path, help="a trained pocket model; default: train one")
    options = parser.parse_args()
    # So that the end of a time limit ends the server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or train_pocket(folder / "warm_start", num_steps=60, hidden_size=64)
        with LocalServer(model) as server:
            started_s = server.start()
            write_people(folder)
            collect(folder, server.url, "whole", options.contexts)
            whole, given_up = table(folder / "whole", options.contexts)
            print(json.dumps({"undisturbed": outcome(whole, given_up), "start_s": started_s}))
            print(json.dumps({"defaults": disturbed(folder, server, options, whole)}))
            print(
                json.dumps({"waits_3_s": disturbed(folder, server, options, whole, patience_s=3)})
            )
    return 0


def disturbed(
    folder: Path,
    server: LocalServer,
    options: argparse.Namespace,
    whole: pd.DataFrame,
    patience_s: float | None = None,
) -> dict[str, Any]:
    """Collect while the server is killed and started again."""
    name = "defaults" if patience_s is None else "impatient"
    began = time.monotonic()
    run = begun(folder, server.url, name, options.contexts, patience_s)
    try:
        while not any((folder / name / "futures").glob("part-*.parquet")):
            if run.poll() is not None:
                raise SystemExit("the collection ended before its first part")
            time.sleep(0.1)
        server.kill()
        killed = time.monotonic()
        if patience_s is not None:
            # Nobody is there to answer: it ends by itself.
            finished(run)
        else:
            time.sleep(options.away)
        server.start()
        away_s = time.monotonic() - killed
        if patience_s is None:
            finished(run)
    finally:
        run.kill()
    rows, given_up = table(folder / name, options.contexts)
    found = {"away_s": round(away_s, 1), "kept": outcome(rows, given_up)}
    if given_up:
        collect(folder, server.url, name, options.contexts, "--retry-quarantined")
        rows, given_up = table(folder / name, options.contexts)
        found["retried"] = outcome(rows, given_up)
    found["wall_s"] = round(time.monotonic() - began, 1)
    same = whole.merge(rows, on=list(whole.columns), how="inner")
    return {**found, "rows_as_undisturbed": len(same)}


def write_people(folder: Path) -> None:
    """Write role cards."""
    problems = ("sleeps badly", "has lost a job", "misses a friend", "fears an exam")
    texts = [f"Age: {age}\nProblem: {problem}" for age in range(20, 60, 8) for problem in problems]
    cards = json.dumps([{"base": text, "source": "own"} for text in texts])
    (folder / "cards.json").write_text(cards, encoding="utf-8")


def collect(folder: Path, url: str, name: str, num_contexts: int, *words: str) -> None:
    """Collect what is left."""
    finished(begun(folder, url, name, num_contexts, None, *words))


def begun(
    folder: Path,
    url: str,
    name: str,
    num_contexts: int,
    patience_s: float | None,
    *words: str,
) -> subprocess.Popen[str]:
    """Begin ``rlff predict`` as a user does."""
    file = folder / f"{name}.yaml"
    settings = {} if patience_s is None else {"max_outage_s": patience_s}
    file.write_text(yaml.safe_dump(config(folder, url, name, num_contexts, settings)))
    command = [sys.executable, "-m", "rlff_lightning.cli", "predict", "--config", str(file), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(run: subprocess.Popen[str]) -> None:
    """Wait for its end, and show what it said."""
    try:
        said, _ = run.communicate()
    finally:
        run.kill()
    if run.returncode:
        raise SystemExit(f"the collection failed\n{said}")
    sys.stderr.write(said)


def config(
    folder: Path, url: str, name: str, num_contexts: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """Let one model play all three roles."""
    model = {
        "class_path": "rlff_lightning.engines.server.ServerChatModel",
        "init_args": {"model": "pocket", "base_url": url, **settings},
    }
    speaking = {"model": model, "max_tokens": 32, "max_empty_retries": 12, "temperature": 1.0}
    cast = {
        "supporter": ("prompted_supporter.PromptedSupporter", speaking),
        "seeker": (
            "language_model_seeker.LanguageModelSeeker",
            {**speaking, "people": str(folder / "cards.json")},
        ),
        "critic": (
            "language_model_critic.LanguageModelCritic",
            {"model": model, "reading": "logps"},
        ),
    }
    agents = {
        role: {"class_path": f"rlff_lightning.agents.{path}", "init_args": arguments}
        for role, (path, arguments) in cast.items()
    }
    callbacks = ("futures_writer.FuturesWriter", "simulation_progress.SimulationProgress")
    return {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "default_root_dir": str(folder / name),
            "logger": False,
            "enable_checkpointing": False,
            "callbacks": [{"class_path": f"callbacks.{path}"} for path in callbacks],
        },
        "return_predictions": False,
        "model": {
            "class_path": "rlff_lightning.modules.simulation.SimulationModule",
            "init_args": {
                **agents,
                "contexts": {
                    "class_path": "rlff_lightning.simulation.contexts.SelfPlayContexts",
                    "init_args": {"max_turns": 3},
                },
                "candidates": {"num_candidates": 2, "num_samples": 2},
                "futures": {"num_futures": 1, "look_ahead": 2},
                "num_contexts": num_contexts,
                "batch_size": 4,
            },
        },
    }


def table(run: Path, num_contexts: int) -> tuple[pd.DataFrame, list[Quarantined]]:
    """Read the table and the quarantine: every context in one of them, and once.

    A context without rows was solved before any reply could be tried, or had none with a text.
    """
    store = FuturesStore(run / "futures")
    rows = pd.read_parquet(store.folder, columns=["context_number", "reply", "value", "futures"])
    done = [number for part in store.folder.glob("part-*") for number in read_finished(part)]
    given_up = store.quarantined()
    held = sorted([*done, *(entry.number for entry in given_up)])
    assert held == list(range(num_contexts)), "a context is missing or doubled"
    assert all(entry.reason for entry in given_up), "a reason is missing"
    assert set(rows["context_number"]) <= set(done), "a row of an unfinished context"
    return rows.sort_values("context_number", kind="stable", ignore_index=True), given_up


def outcome(rows: pd.DataFrame, given_up: list[Quarantined]) -> dict[str, Any]:
    """Say what there is, with the reasons of what was given up."""
    reasons = [entry.reason.partition(":")[0] for entry in given_up]
    counts = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return {"rows": len(rows), "quarantined": len(given_up), "reasons": counts}


if __name__ == "__main__":
    sys.exit(main())
