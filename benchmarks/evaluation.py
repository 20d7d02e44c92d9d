"""Time an evaluation of a policy in the scripted world, in batch and one by one.

    python benchmarks/evaluation.py runs/demo/policy/model [--engine vllm] [--episodes 200]

Both are played in this process, one after the other, after a first episode that starts the engine;
the batch is timed before and after, as a machine's speed drifts. Give `--alone` fewer episodes: the
ratio is of the time per episode.
"""

import argparse
import json
import time
from typing import Any

from rlff_lightning.agents.base import Cast
from rlff_lightning.agents.language_model import LanguageModelSupporter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.self_play import play
from rlff_lightning.dialogue.chat import ChatSettings
from rlff_lightning.seeds import derive_seed


def main() -> None:
    """Print the times as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="folder of the policy")
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--alone", type=int, default=40, help="episodes played one by one")
    parser.add_argument("--max-turns", type=int, default=8)
    options = parser.parse_args()
    chat = ChatSettings(max_messages=5)
    start = time.perf_counter()
    supporter = LanguageModelSupporter(_engine(options), chat=chat, max_tokens=48)
    seeker = ScriptedSeeker()
    cast = Cast(supporter, seeker, ScriptedCritic())
    seeds = [derive_seed(0, "episode", number) for number in range(options.episodes)]

    def played(batches: list[list[int]]) -> tuple[float, float, float]:
        clock, cpu, solved = time.perf_counter(), time.process_time(), 0
        for batch in batches:
            episodes = play(seeker.open(batch), cast, max_turns=options.max_turns)
            solved += sum(episode.is_success for episode in episodes)
        count = sum(map(len, batches))
        return time.perf_counter() - clock, time.process_time() - cpu, solved / count

    played([[derive_seed(1, "first")]])
    report = {"start_s": time.perf_counter() - start}
    before, cpu, rate = played([seeds])
    one_by_one, cpu_alone, _ = played([[seed] for seed in seeds[: options.alone]])
    after, cpu_after, _ = played([seeds])
    in_batch = (before + after) / 2 / options.episodes
    report |= {
        "batch_s": before,
        "batch_again_s": after,
        "batch_cpu_s": (cpu + cpu_after) / 2,
        "one_by_one_s_per_episode": one_by_one / options.alone,
        "times_as_fast": one_by_one / options.alone / in_batch,
        "times_as_fast_cpu": cpu_alone / options.alone / ((cpu + cpu_after) / 2 / options.episodes),
        "success_rate": rate,
    }
    print(json.dumps({key: round(value, 4) for key, value in report.items()}, indent=1))


def _engine(options: argparse.Namespace) -> Any:
    if options.engine == "vllm":
        from rlff_lightning.engines.vllm import VLLMEngine

        return VLLMEngine(options.model, max_model_len=320, kv_cache_gib=0.25)
    from rlff_lightning.engines.transformers import TransformersEngine

    return TransformersEngine(options.model, max_model_len=320, max_num_seqs=200)


if __name__ == "__main__":
    main()
