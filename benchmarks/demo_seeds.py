"""Run the demo under several seeds and put its tables together.

    python benchmarks/demo_seeds.py --seeds 0 1 2 --run runs/demo-seeds

Finished stages are skipped, so an interrupted command continues where it stopped.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pandas as pd

POLICIES = ("sft", "immediate", "rlff", "optimum")


def main() -> int:
    """Run the seeds one after another and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run", type=Path, default=Path("runs/demo-seeds"))
    parser.add_argument("--configs", default="configs/demo")
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        run = options.run / f"seed-{seed}"
        command = [sys.executable, "-m", "rlff_lightning.cli", "pipeline", options.configs]
        subprocess.run([*command, "--run", str(run), "--seed", str(seed)], check=True)
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        for name in POLICIES:
            found = summary["policies"][name]
            rows.append({"seed": seed, "policy": name, **found, "wall_s": summary["wall_s"]})
    table = pd.DataFrame(rows)
    options.run.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.run / "table.csv", index=False)
    text = markdown(table)
    (options.run / "table.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"wrote {options.run / 'table.md'}")
    return 0


def markdown(table: pd.DataFrame) -> str:
    """One row per policy: success rate of each seed, their mean, and mean turns."""
    seeds = sorted(table["seed"].unique())
    head = "| policy | " + " | ".join(f"seed {seed}" for seed in seeds)
    lines = [head + " | mean | average turns |", "|---" * (len(seeds) + 3) + "|"]
    for name in POLICIES:
        own = table[table["policy"] == name].sort_values("seed")
        rates = list(own["success_rate"])
        cells = " | ".join(f"{rate:.3f}" for rate in rates)
        turns = fmean(own["average_turns"])
        lines.append(f"| {name} | {cells} | {fmean(rates):.3f} | {turns:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
