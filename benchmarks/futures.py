"""Throughput of simulated futures in the process, beside bare vLLM and beside one by one.

    python benchmarks/futures.py                       # policy by vLLM, scripted seeker and critic
    python benchmarks/futures.py --cast models         # all three by vLLM
    python benchmarks/futures.py --model runs/demo/warm_start/model

All sides run in turns in one process. The bare side gets the simulation's own prompts, each to its
own length, in one call: it need not wait for anybody's answer. CPU seconds are given beside wall
seconds, for a machine that others use too; on a GPU only the wall counts.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from server_agents import build_pocket

from rlff_lightning.agents.base import Cast
from rlff_lightning.agents.language_model import LanguageModelSupporter
from rlff_lightning.agents.language_model_critic import LanguageModelCritic
from rlff_lightning.agents.language_model_seeker import LanguageModelSeeker
from rlff_lightning.agents.prompted_supporter import PromptedSupporter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.self_play import play
from rlff_lightning.engines.base import Completion, Sampling
from rlff_lightning.engines.engine_chat import EngineChatModel
from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.simulation.futures import FutureSettings
from rlff_lightning.types import Conversation


class Sampled(NamedTuple):
    """A prompt with the length that its completion came to."""

    prompt: Sequence[int]
    num_tokens: int
    temperature: float


class RecordingEngine(VLLMEngine):
    """Remembers what it sampled, so that the other side can sample as much."""

    def __init__(self, folder: Path, max_model_len: int) -> None:
        super().__init__(str(folder), max_model_len=max_model_len, kv_cache_gib=1.0)
        self.calls: list[Sampled] = []

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """Generate as ever."""
        found = super().generate(prompts, sampling, seeds)
        self.calls += [
            Sampled(prompt, len(completion.token_ids), sampling.temperature)
            for prompt, completion in zip(prompts, found, strict=True)
        ]
        return found


def bare(engine: RecordingEngine, calls: Sequence[Sampled]) -> None:
    """Sample as many tokens from the same prompts by ``LLM.generate`` alone."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    llm = engine._running()
    llm.reset_prefix_cache()
    params = [
        SamplingParams(
            temperature=call.temperature,
            max_tokens=call.num_tokens,
            ignore_eos=True,
            detokenize=False,
        )
        for call in calls
    ]
    prompts = [TokensPrompt(prompt_token_ids=list(call.prompt)) for call in calls]
    with engine._compilation():
        llm.generate(prompts, params, use_tqdm=False)


def main() -> int:
    """Measure in turns and print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cast", choices=["scripted", "models"], default="scripted")
    parser.add_argument("--model", type=Path, help="folder; an untrained pocket model if left out")
    parser.add_argument("--contexts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--futures", type=int, default=2, help="per candidate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.model or Path(name)
        if options.model is None:
            build_pocket(folder)
        engine = RecordingEngine(folder, 2048 if options.cast == "models" else 1024)
        cast = cast_of(options.cast, engine, options.max_tokens)
        futures = FutureSettings(num_futures=options.futures, look_ahead=4)
        measure(engine, cast, futures, options.contexts, options.rounds)
        engine.close()
    return 0


def cast_of(kind: str, engine: RecordingEngine, max_tokens: int) -> Cast:
    """Let the engine play one role or all three."""
    if kind == "scripted":
        supporter = LanguageModelSupporter(engine, temperature=1.0, max_tokens=max_tokens)
        return Cast(supporter, ScriptedSeeker(), ScriptedCritic())
    model = EngineChatModel(engine, max_prompt_tokens=2048 - max_tokens)
    return Cast(
        PromptedSupporter(model, max_tokens=max_tokens),
        ScriptedOpening(model, max_tokens=max_tokens),
        LanguageModelCritic(model, max_tokens=16),
    )


class ScriptedOpening(LanguageModelSeeker):
    """A model's seeker whose people are the scripted ones: the benchmark reads no file."""

    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        """Open as the scripted seeker does."""
        return ScriptedSeeker().open(seeds)


def measure(
    engine: RecordingEngine, cast: Cast, futures: FutureSettings, num_contexts: int, rounds: int
) -> None:
    """Print tokens per second of both sides, and turns per second together and one by one."""
    module = SimulationModule(*cast, futures=futures, num_contexts=num_contexts, seed=0)
    module.predict_step(range(4), 0)
    for number in range(rounds):
        engine.calls = []
        numbers = range(4 + number * num_contexts, 4 + (number + 1) * num_contexts)
        ours = timed(lambda numbers=numbers: module.predict_step(numbers, 0))
        calls, engine.calls = engine.calls, []
        theirs = timed(lambda calls=calls: bare(engine, calls))
        tokens = sum(call.num_tokens for call in calls)
        print(
            f"round {number}: {len(calls)} completions, {tokens} tokens; tokens/s by wall (CPU): "
            f"simulation {tokens / ours[0]:.0f} ({tokens / ours[1]:.0f}), "
            f"bare {tokens / theirs[0]:.0f} ({tokens / theirs[1]:.0f}), "
            f"ratio {theirs[0] / ours[0]:.2f} ({theirs[1] / ours[1]:.2f})",
            flush=True,
        )
    opened = cast.seeker.open(range(num_contexts))
    turns = [0, 0]
    few = max(num_contexts // 16, 1)

    def together() -> None:
        turns[0] = sum(len(e.verdicts) for e in play(opened, cast, max_turns=4))

    def one_by_one() -> None:
        episodes = [play([state], cast, max_turns=4)[0] for state in opened[:few]]
        turns[1] = sum(len(episode.verdicts) for episode in episodes)

    many, single = timed(together), timed(one_by_one)
    rates = [
        (turns[0] / many[place], turns[1] / single[place], turns[0] / many[place] / turns[1])
        for place in (0, 1)
    ]
    print(
        f"turns/s by wall (CPU): {num_contexts} together {rates[0][0]:.1f} ({rates[1][0]:.1f}), "
        f"one by one {rates[0][1]:.2f} ({rates[1][1]:.2f}), "
        f"ratio {rates[0][2] * single[0]:.1f} ({rates[1][2] * single[1]:.1f})"
    )


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """Run and give wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    sys.exit(main())
