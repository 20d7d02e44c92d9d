"""Whole groups sampled by the weights of the latest sync, in step with training or ahead of it.

Ahead: while an iteration is trained on, the engine samples the next one with the weights that this
one began with. Its completions are then one iteration stale. They carry the log-probabilities
of the weights that sampled them, so that the objective's mismatch weights correct for both at once,
the staleness and the engine. A range of mismatch without weights only leaves out what is stalest.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, NamedTuple

from rlff_lightning.dialogue.chat import ChatFormat
from rlff_lightning.engines.base import Completion, Engine, Sampling
from rlff_lightning.engines.host_state import same_device
from rlff_lightning.errors import StoppedRun, UserError
from rlff_lightning.rollout.contexts import ContextStream
from rlff_lightning.rollout.learner import Learner
from rlff_lightning.rollout.settings import RolloutSettings
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation

NUM_PROBES = 2
"""Prompts whose tokens prove a sync."""


class Rollout(NamedTuple):
    """Completions that nobody has looked at yet. N contexts, G completions each."""

    contexts: list[Conversation]
    """N contexts."""
    prompts: list[list[int]]
    """Their token ids."""
    completions: list[Completion]
    """N * G, siblings adjacent."""
    report: dict[str, float]
    """What to log, by log key."""


class _Pending(NamedTuple):
    contexts: list[Conversation]
    prompts: list[list[int]]
    completions: "Future[list[Completion]]"
    report: dict[str, float]
    before: dict[str, Any]
    """State of the stream before the contexts were taken: it gives them again."""
    staleness: int


class RolloutSampler:
    """Take contexts, sync the engine, sample a group for each.

    Args:
        learner: Gives the engine its weights.
        engine: Samples.
        chat: Renders contexts.
        contexts: Where they come from.
        settings: Sizes.
        seed: Root of all draws of this rank.
    """

    def __init__(
        self,
        learner: Learner,
        engine: Engine,
        chat: ChatFormat,
        contexts: ContextStream,
        settings: RolloutSettings,
        seed: int,
    ) -> None:
        self.learner = learner
        self.engine = engine
        self.chat = chat
        self.contexts = contexts
        self.settings = settings
        self.seed = seed
        self.number = 0
        """Rollouts begun so far."""
        self._pending: _Pending | None = None
        self._thread: ThreadPoolExecutor | None = None
        if settings.ahead and engine.enable_sleep:
            raise UserError(
                "RolloutSettings.ahead: the engine samples while the trainer updates; set the "
                "engine's enable_sleep to false, got true"
            )
        contexts.start(seed)

    def take(self) -> Rollout:
        """Give the next rollout: the one sampled ahead, or a new one by the current weights."""
        pending = self._pending or self._begin(is_ahead=False)
        started = time.perf_counter()
        completions = pending.completions.result()
        self._pending = None
        report = pending.report | {"rollout/staleness": float(pending.staleness)}
        report.setdefault("time/generate", time.perf_counter() - started)
        return Rollout(pending.contexts, pending.prompts, completions, report)

    def go_ahead(self) -> None:
        """Begin the next rollout where the settings ask for it; else let the engine sleep."""
        if self.settings.ahead:
            self._pending = self._begin(is_ahead=True)
        else:
            self.engine.sleep()

    def close(self) -> None:
        """Wait for what the engine still samples; nobody will use it."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread, self._pending = None, None

    def state_dict(self) -> dict[str, Any]:
        """Give all that a resumed sampler needs; waits for a rollout that is under way."""
        ahead = None
        if self._pending is not None:
            ahead = [_plain(completion) for completion in self._pending.completions.result()]
        return {
            "rollouts": self.number,
            "seed": self.seed,
            "contexts": self._pending.before if self._pending else self.contexts.state_dict(),
            "ahead": ahead,
            "ahead_report": self._pending.report if self._pending else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was called."""
        self.number, self.seed = state["rollouts"], state["seed"]
        self.contexts.load_state_dict(state["contexts"])
        self._pending = None
        if state["ahead"] is None:
            return
        contexts, prompts, before = self._take_contexts()
        completions: Future[list[Completion]] = Future()
        completions.set_result([_completion(fields) for fields in state["ahead"]])
        report = state.get("ahead_report", {})
        self._pending = _Pending(contexts, prompts, completions, report, before, staleness=1)

    def restart(self, number: int) -> None:
        """Begin the rollout ``number`` with streams of contexts that no process had before."""
        self.number = number
        self.seed = derive_seed(self.seed, "restarted", number)
        self.contexts.start(self.seed)
        self._pending = None

    def _begin(self, *, is_ahead: bool) -> _Pending:
        contexts, prompts, before = self._take_contexts()
        started = time.perf_counter()
        self.engine.wake()
        report = self.learner.sync(self.number, prompts[:NUM_PROBES])
        synced = time.perf_counter()
        report = report | {"time/sync": synced - started}
        repeated = [prompt for prompt in prompts for _ in range(self.settings.group_size)]
        seeds = [derive_seed(self.seed, "sample", self.number, i) for i in range(len(repeated))]
        self.number += 1
        if is_ahead:
            self._thread = self._thread or ThreadPoolExecutor(
                1, "rollout-ahead", initializer=same_device()
            )
            completions = self._thread.submit(self._sample, repeated, seeds)
        else:
            completions = Future()
            completions.set_result(self._sample(repeated, seeds))
            report["time/generate"] = time.perf_counter() - synced
        return _Pending(contexts, prompts, completions, report, before, staleness=int(is_ahead))

    def _take_contexts(self) -> tuple[list[Conversation], list[list[int]], dict[str, Any]]:
        before = self.contexts.state_dict()
        contexts = self.contexts.take(self.settings.prompts)
        return contexts, [self.chat.prompt_ids(context) for context in contexts], before

    def _sample(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Completion]:
        sampling = Sampling(
            temperature=self.settings.temperature, max_tokens=self.settings.max_tokens
        )
        completions = self.engine.generate(prompts, sampling, seeds)
        num_wrong = sum(not math.isfinite(sum(c.logps)) for c in completions)
        if num_wrong:
            raise StoppedRun(
                f"The engine's log-probabilities of {num_wrong} of {len(completions)} completions "
                "are not finite"
            )
        return completions


def _plain(completion: Completion) -> dict[str, Any]:
    """Turn a completion into values that a checkpoint without pickle holds."""
    fields = asdict(completion)
    return {**fields, "token_ids": list(fields["token_ids"]), "logps": list(fields["logps"])}


def _completion(fields: dict[str, Any]) -> Completion:
    tuples = {"token_ids": tuple(fields["token_ids"]), "logps": tuple(fields["logps"])}
    return Completion(**{**fields, **tuples})
