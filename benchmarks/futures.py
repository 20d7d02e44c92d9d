"""Throughput of simulated futures in the process, beside bare vLLM and beside one by one.

    python benchmarks/futures.py                       # policy by vLLM, scripted seeker and critic
    python benchmarks/futures.py --train-steps 250     # its answers end by themselves
    python benchmarks/futures.py --cast models --train-steps 250  # all three by vLLM

All sides run in turns in one process. The bare side gets the simulation's own prompts with their
seeds, each to its own length, in one call: it need not wait for anybody's answer. So the bare side
has no small batches at all. It is measured without seeds too, which the simulation cannot do
without. CPU seconds are given beside wall seconds, for a machine that others use too; on a GPU only
the wall counts.
"""

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Trainer
from pocket_models import build_pocket, train_pocket

from rlff_lightning.agents.base import Cast
from rlff_lightning.agents.language_model import LanguageModelSupporter
from rlff_lightning.agents.language_model_critic import LanguageModelCritic
from rlff_lightning.agents.language_model_seeker import LanguageModelSeeker
from rlff_lightning.agents.prompted_supporter import PromptedSupporter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.self_play import play
from rlff_lightning.engines.base import Completion, Engine, Sampling
from rlff_lightning.engines.engine_chat import EngineChatModel
from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.engines.vllm_queue import compilation
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.simulation.futures import FutureSettings
from rlff_lightning.simulation.tally import Tally
from rlff_lightning.simulation.together import Together
from rlff_lightning.types import Conversation


class Sampled(NamedTuple):
    """A prompt with the length that its completion came to."""

    prompt: Sequence[int]
    num_tokens: int
    temperature: float
    seed: int


class RecordingEngine(VLLMEngine):
    """Remembers what it sampled, so that the other side can sample as much."""

    def __init__(self, folder: Path, max_model_len: int, kv_cache_gib: float = 1.0) -> None:
        super().__init__(
            str(folder), max_model_len=max_model_len, kv_cache_gib=kv_cache_gib, keep_prefixes=True
        )
        self.calls: list[Sampled] = []

    def close(self) -> None:
        """Stay open: a collection closes its agents, and several are measured."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """Generate as ever."""
        found = super().generate(prompts, sampling, seeds)
        self.calls += [
            Sampled(prompt, len(completion.token_ids), sampling.temperature, seed)
            for prompt, completion, seed in zip(prompts, found, seeds, strict=True)
        ]
        return found


def bare(engine: RecordingEngine, calls: Sequence[Sampled], *, with_seeds: bool) -> None:
    """Sample as many tokens from the same prompts by ``LLM.generate`` alone."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    llm = engine._running()
    llm.reset_prefix_cache()
    params = [
        SamplingParams(
            temperature=call.temperature,
            max_tokens=call.num_tokens,
            seed=call.seed if with_seeds else None,
            ignore_eos=True,
            detokenize=False,
        )
        for call in calls
    ]
    prompts = [TokensPrompt(prompt_token_ids=list(call.prompt)) for call in calls]
    with compilation(llm):
        llm.generate(prompts, params, use_tqdm=False)


def main() -> int:
    """Measure in turns and print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cast", choices=["scripted", "models"], default="scripted")
    parser.add_argument("--model", type=Path, help="folder; else a pocket model")
    parser.add_argument("--train-steps", type=int, default=0, help="of the pocket model")
    parser.add_argument("--contexts", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches-at-once", type=int, default=2)
    parser.add_argument("--conversations", type=int, default=64, help="together and one by one")
    parser.add_argument("--kv-cache-gib", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--futures", type=int, default=2, help="per candidate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.model or Path(name)
        if options.model is None and options.train_steps:
            folder = train_pocket(folder, options.train_steps)
        elif options.model is None:
            build_pocket(folder)
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        max_model_len = 2048 if options.cast == "models" else 1024
        engine = RecordingEngine(folder, max_model_len, options.kv_cache_gib)
        cast = cast_of(options.cast, engine, options.max_tokens)
        futures = FutureSettings(num_futures=options.futures, look_ahead=4)
        measure(engine, cast, futures, options)
    return 0


def cast_of(kind: str, engine: Engine, max_tokens: int) -> Cast:
    """Let the engine play one role or all three."""
    if kind == "scripted":
        supporter = LanguageModelSupporter(engine, temperature=1.0, max_tokens=max_tokens)
        return Cast(supporter, ScriptedSeeker(), ScriptedCritic())
    model = EngineChatModel(engine, max_prompt_tokens=2048 - max_tokens)
    # So small a model does not always end a sentence.
    speaking = {"max_tokens": max_tokens, "max_empty_retries": 12}
    return Cast(
        PromptedSupporter(model, **speaking),
        ScriptedOpening(model, **speaking),
        LanguageModelCritic(model, max_tokens=16),
    )


class ScriptedOpening(LanguageModelSeeker):
    """A model's seeker whose people are the scripted ones: the benchmark reads no file."""

    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        """Open as the scripted seeker does."""
        return ScriptedSeeker().open(seeds)


def collect(
    cast: Cast, futures: FutureSettings, num_contexts: int, seed: int, **sizes: int
) -> Tally:
    """Simulate as ``rlff predict`` does; nothing is stored."""
    module = SimulationModule(*cast, futures=futures, num_contexts=num_contexts, seed=seed, **sizes)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.predict(module, return_predictions=False)
    return module.tally


def measure(
    engine: RecordingEngine, cast: Cast, futures: FutureSettings, options: argparse.Namespace
) -> None:
    """Print tokens per second of both sides, and turns per second together and one by one."""
    collect(cast, futures, 4, seed=0)
    sizes = {"batch_size": options.batch_size, "batches_at_once": options.batches_at_once}
    for number in range(1, options.rounds + 1):
        engine.calls = []
        tallies: list[Tally] = []
        ours = timed(
            lambda number=number, tallies=tallies: tallies.append(
                collect(cast, futures, options.contexts, number, **sizes)
            )
        )
        calls, engine.calls = engine.calls, []
        theirs = timed(lambda calls=calls: bare(engine, calls, with_seeds=True))
        unseeded = timed(lambda calls=calls: bare(engine, calls, with_seeds=False))
        tokens = sum(call.num_tokens for call in calls)
        print(
            f"round {number}: {tallies[0].finished} contexts labelled, {tallies[0].quarantined} "
            f"given up; {len(calls)} completions, {tokens} tokens; tokens/s by wall (CPU): "
            f"simulation {tokens / ours[0]:.0f} ({tokens / ours[1]:.0f}), "
            f"bare {tokens / theirs[0]:.0f} ({tokens / theirs[1]:.0f}), "
            f"ratio {theirs[0] / ours[0]:.2f} ({theirs[1] / ours[1]:.2f}); to bare without seeds "
            f"{unseeded[0] / ours[0]:.2f} ({unseeded[1] / ours[1]:.2f})",
            flush=True,
        )
    opened = cast.seeker.open(range(options.conversations))
    turns = [0, 0]
    few = opened[::16]
    plays = Together(lambda place: play([opened[place]], cast, max_turns=4)[0])

    def together() -> None:
        turns[0] = sum(len(e.verdicts) for e in plays.finish(0, [range(len(opened))], len(opened)))

    def one_by_one() -> None:
        episodes = [play([state], cast, max_turns=4)[0] for state in few]
        turns[1] = sum(len(episode.verdicts) for episode in episodes)

    many = timed(together)
    engine.calls = []
    single = timed(one_by_one)
    alone = sum(call.num_tokens for call in engine.calls)
    gains = [tokens / theirs[place] / (alone / single[place]) for place in (0, 1)]
    rates = [
        (turns[0] / many[place], turns[1] / single[place], turns[0] / many[place] / turns[1])
        for place in (0, 1)
    ]
    print(
        f"turns/s by wall (CPU): {len(opened)} together {rates[0][0]:.1f} ({rates[1][0]:.1f}), "
        f"one by one {rates[0][1]:.2f} ({rates[1][1]:.2f}), "
        f"ratio {rates[0][2] * single[0]:.1f} ({rates[1][2] * single[1]:.1f}); one by one "
        f"{alone / single[0]:.0f} ({alone / single[1]:.0f}) tokens/s, of which bare vLLM's batches "
        f"give {gains[0]:.1f} ({gains[1]:.1f}) times as many"
    )


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """Run and give wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    sys.exit(main())
