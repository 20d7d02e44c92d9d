from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from callbacks.reward_drift import RewardDrift
from rlff_lightning.agents.base import Critic, Seeker, Supporter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.data.store import read_parts
from rlff_lightning.errors import UserError
from rlff_lightning.modules.direct_scorer import FutureScorer
from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.rollout.scorers import Sampled, Scorer
from rlff_lightning.simulation.futures import FutureSettings
from rlff_lightning.types import Conversation, Message, Verdict


class Echo(Seeker):
    """Says back what it hears."""

    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        raise NotImplementedError

    def answer(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        return [
            Conversation(
                id=c.id, messages=(*c.messages, Message(role="seeker", text=c.messages[-1].text))
            )
            for c in conversations
        ]


class Reader(Critic):
    """Values an answer by the number in it; gives up on one without."""

    name = "reader"

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        texts = [conversation.messages[-1].text for conversation in conversations]
        return [
            Verdict(value=float(t), outcome="same", is_success=False)
            if t != "?"
            else Verdict(value=0.0, outcome="unparsed", is_success=False, failure="no number")
            for t in texts
        ]


class Steady(Supporter):
    """Always says the same number."""

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        return [Message(role="supporter", text="0.5")] * len(conversations)


def sampled(context_id: str, text: str) -> Sampled:
    context = Conversation(id=context_id, messages=(Message(role="seeker", text="hello"),))
    reply = Message(role="supporter", text=text)
    return Sampled(context=context, text=text, reply=reply, token_ids=(1,), is_finished=True)


def test_without_futures_a_reply_is_worth_what_the_critic_says_at_once() -> None:
    scorer = FutureScorer(Echo(), Reader(), MixedSupporter(), FutureSettings(num_futures=0))
    found = scorer.score([sampled("a", "0.5"), sampled("a", "-1"), sampled("b", "0.25")])
    assert found.tolist() == [0.5, -1.0, 0.25]


def test_a_future_that_was_broken_off_teaches_nothing() -> None:
    scorer = FutureScorer(Echo(), Reader(), MixedSupporter(), FutureSettings(num_futures=0))
    samples = [sampled("a", t) for t in ("1", "?", "0")] + [sampled("b", t) for t in ("?", "?")]
    # The siblings' mean is .5; a context of which nothing is known is flat.
    assert scorer.score(samples).tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert scorer.report()["rollout/simulated_failures"] == 3.0
    with pytest.raises(RuntimeError, match="every simulated future was broken off"):
        scorer.score([sampled("b", "?")])


def test_futures_that_the_last_turn_cuts_are_reported() -> None:
    shares = []
    for max_turns in (1, 2):
        futures = FutureSettings(num_futures=2, look_ahead=2, max_turns=max_turns)
        scorer = FutureScorer(Echo(), Reader(), Steady(), futures)
        scorer.score([sampled("a", "0.5")])
        shares.append(scorer.report()["rollout/simulated_cut"])
    assert shares == [1.0, 0.0]


def test_the_direct_reward_is_the_label_that_a_simulation_writes(futures_folder: Path) -> None:
    records = read_parts(futures_folder)[:12]
    scorer = FutureScorer(ScriptedSeeker(), ScriptedCritic(), MixedSupporter())
    found = scorer.score(
        [
            Sampled(context=r.context, text="", reply=r.reply, token_ids=(1,), is_finished=True)
            for r in records
        ]
    )
    assert found.std() > 0.1
    assert found.tolist() == pytest.approx([record.value for record in records])


def test_without_a_policy_the_supporter_must_be_named() -> None:
    with pytest.raises(UserError, match=r"FutureScorer\.supporter must be given"):
        FutureScorer(Echo(), Reader()).score([sampled("a", "1")])


class Gradients(Callback):
    """Keeps the sum of all gradients at each step."""

    def __init__(self) -> None:
        self.sums: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad.abs().sum() for p in pl_module.model.parameters() if p.grad is not None]
        self.sums.append(torch.stack(grads).sum().item())


def test_a_policy_trains_on_simulated_futures_and_a_comparison_changes_nothing(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    def cast(**settings: Any) -> FutureScorer:
        futures = FutureSettings(num_futures=2, look_ahead=2)
        return FutureScorer(ScriptedSeeker(), ScriptedCritic(), futures=futures, **settings)

    direct = tiny_policy(scorers=[cast()])
    quiet_trainer(tmp_path / "direct", max_steps=1).fit(direct)
    assert direct.experience is not None
    rewards = torch.tensor([group.rewards["simulated"] for group in direct.experience.groups])
    assert rewards.std() > 0.05

    found = []
    for callbacks in ([], [RewardDrift(cast(), every=2, num_groups=4, min_agreement=0.0)]):
        gradients = Gradients()
        trainer = quiet_trainer(
            tmp_path / f"watched-{len(callbacks)}", max_steps=4, callbacks=[gradients, *callbacks]
        )
        trainer.fit(tiny_policy())
        found.append((gradients.sums, trainer.logged_metrics))
    (alone, _), (watched, logged) = found
    assert watched == alone
    assert len(alone) == 4
    assert 0 <= logged["drift/agreement"] <= 1
    # The first comparison; the second is due at iteration 3. A mean of equal numbers may round.
    assert abs(logged["drift/gap"]) < 1e-12


class Fixed(Scorer):
    name = "fixed"

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        return torch.zeros(len(samples))


def test_what_cannot_be_compared_is_one_line(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    drift = RewardDrift(Fixed(), term="futur")
    with pytest.raises(UserError, match=r"term must be a term with a weight, one of \['future'"):
        quiet_trainer(tmp_path, callbacks=[drift], max_steps=1).fit(tiny_policy())
