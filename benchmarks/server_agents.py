"""Throughput against a server: conversations, and a bare async client with the very same requests.

    python benchmarks/server_agents.py
    python benchmarks/server_agents.py --base-url http://127.0.0.1:8000/v1 --model NAME

Without an address it starts vLLM with a small model, which it trains to end its sentences unless a
folder is named. One model plays all three roles of whole conversations, each at its own pace, as a
simulation plays them; the bare client sends the same requests at the same concurrency, and need not
wait for any answer before it sends the next. Both sides take turns in one run; every round draws
other seeds.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from pocket_models import train_pocket
from vllm_server import LocalServer

from rlff_lightning.agents.base import Cast
from rlff_lightning.agents.language_model_critic import LanguageModelCritic
from rlff_lightning.agents.language_model_seeker import LanguageModelSeeker
from rlff_lightning.agents.prompted_supporter import PromptedSupporter
from rlff_lightning.agents.scripted.corpus import write_corpus
from rlff_lightning.agents.self_play import play
from rlff_lightning.dialogue.turns import reply_contexts
from rlff_lightning.engines.chat_model import Answer, Chat, ChatSampling
from rlff_lightning.engines.server import ServerChatModel
from rlff_lightning.engines.server_answers import chat_body
from rlff_lightning.seeds import derive_seed
from rlff_lightning.simulation.together import Together
from rlff_lightning.types import Conversation


class RecordingModel(ServerChatModel):
    """Remembers what it was asked, so that the other side can ask the same."""

    bodies: list[dict[str, Any]]
    """Of all requests so far."""

    def answer(self, chats: Sequence[Chat], sampling: ChatSampling) -> list[Answer]:
        """Answer as ever."""
        self.bodies += [chat_body(self.model, chat, sampling) for chat in chats]
        return super().answer(chats, sampling)


def main() -> int:
    """Measure and print one line per round, then the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base-url")
    parser.add_argument("--model", default="pocket", help="the server's name for it")
    parser.add_argument("--folder", type=Path, help="of the model to serve")
    parser.add_argument("--conversations", type=int, default=128)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3, help="of each conversation")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with server(options.base_url, options.folder) as url:
        cast = cast_of(url, options)
        contexts = scripted_contexts(options.conversations)
        asyncio.run(warmed_up(url, options.model))
        play_on(cast, contexts[:8], 0, 1)
        rates: dict[str, list[float]] = {"agents": [], "bare": []}
        for number in range(1, options.rounds + 1):
            began = time.perf_counter()
            tokens, bodies = play_on(cast, contexts, number, options.turns)
            rates["agents"].append(tokens / (time.perf_counter() - began))
            bare_tokens, wall = asyncio.run(bare(url, bodies, options.concurrency))
            rates["bare"].append(bare_tokens / wall)
            shown = {side: round(own[-1]) for side, own in rates.items()}
            print(json.dumps({"round": number, "requests": len(bodies), "tokens_per_s": shown}))
    ratios = [a / b for a, b in zip(rates["agents"], rates["bare"], strict=True)]
    print(json.dumps({"ratio_of_medians": median(rates["agents"]) / median(rates["bare"])}))
    print(json.dumps({"ratios": [round(ratio, 3) for ratio in ratios]}))
    return 0


def cast_of(url: str, options: argparse.Namespace) -> Cast:
    """Let one model play all three roles."""
    model = RecordingModel(options.model, url, concurrency=options.concurrency)
    limits = {"max_tokens": options.max_tokens}
    return Cast(
        PromptedSupporter(model, **limits),
        LanguageModelSeeker(model, **limits),
        LanguageModelCritic(model, max_tokens=options.max_tokens),
    )


def scripted_contexts(count: int) -> list[Conversation]:
    """Take contexts of all depths from the scripted corpus."""
    dialogues = write_corpus(count, seed=0)
    contexts = [context for dialogue in dialogues for context, _ in reply_contexts(dialogue)]
    return contexts[:: max(1, len(contexts) // count)][:count]


def play_on(
    cast: Cast, contexts: Sequence[Conversation], number: int, num_turns: int
) -> tuple[int, list[dict[str, Any]]]:
    """Carry all contexts on; give the sampled tokens and the requests."""
    model: RecordingModel = cast.supporter.model  # type: ignore[attr-defined]
    model.bodies = []
    before = [agent.counts for agent in cast]
    states = [replace(c, seed=derive_seed(c.seed, number)) for c in contexts]
    plays = Together(lambda n: play([states[n]], cast, max_turns=99, max_new_turns=num_turns))
    plays.finish(0, [range(len(states))], len(states))
    used = [agent.counts - old for agent, old in zip(cast, before, strict=True)]
    return sum(one.completion_tokens for one in used), model.bodies


async def warmed_up(url: str, model: str) -> None:
    """Ask once, so that no side pays for the server's first request."""
    async with AsyncOpenAI(base_url=url, api_key="none") as client:
        turn: Any = [{"role": "user", "content": "Hello."}]
        await client.chat.completions.create(model=model, messages=turn, max_tokens=4)


async def bare(url: str, bodies: Sequence[dict[str, Any]], concurrency: int) -> tuple[int, float]:
    """Send the requests by the client alone; give the sampled tokens and the seconds."""
    slots = asyncio.Semaphore(concurrency)

    async def send(client: AsyncOpenAI, body: dict[str, Any]) -> ChatCompletion:
        async with slots:
            answer: ChatCompletion = await client.chat.completions.create(**body)
            return answer

    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        began = time.perf_counter()
        answers = await asyncio.gather(*(send(client, body) for body in bodies))
        wall = time.perf_counter() - began
    return sum(answer.usage.completion_tokens for answer in answers if answer.usage), wall


@contextmanager
def server(base_url: str | None, folder: Path | None) -> Iterator[str]:
    """Use a running server, or start one and end it afterwards."""
    if base_url:
        yield base_url
        return
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalServer(folder or train_pocket(Path(scratch), 250)) as own,
    ):
        own.start()
        yield own.url


if __name__ == "__main__":
    sys.exit(main())
