import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.agents.base import Supporter
from rlff_lightning.agents.reply_judge import DIMENSIONS, Rating, ReplyJudge
from rlff_lightning.data.replies import FileReplies, Replies, ScriptedReplies
from rlff_lightning.errors import UserError
from rlff_lightning.functional.intervals import wilson_interval
from rlff_lightning.functional.preferences import Preference
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.modules.quality import QualityModule
from rlff_lightning.modules.quality_files import print_quality
from rlff_lightning.types import Conversation, Message

SCRIPT = Path(__file__).with_name("quality_in_a_fresh_process.py")


class Knowing(Supporter):
    """Gives the very reply that the human gave, or none."""

    def __init__(self, data: Replies, *, is_silent: bool = False) -> None:
        data.setup("test")
        pairs = [pair for batch in data.test_dataloader() for pair in batch]
        self.replies = {context.id: reply for context, reply in pairs}
        self.is_silent = is_silent

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        silence = Message(role="supporter", text="", failure="the server is gone")
        known = [self.replies[conversation.id] for conversation in conversations]
        return [silence] * len(known) if self.is_silent else known


class Counting(Knowing):
    """Writes down what it is asked."""

    def __init__(self, data: Replies, asked: list[str]) -> None:
        super().__init__(data)
        self._asked = asked

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        self._asked += [conversation.id for conversation in conversations]
        return super().reply(conversations)


class Wordy(ReplyJudge):
    """Rates and prefers by the number of words, until it is killed."""

    name = "wordy"

    def __init__(self, lives: int = 1000) -> None:
        self.is_closed = False
        self._lives = lives
        self._num_rated = 0

    def rate(self, contexts: Sequence[Conversation], replies: Sequence[Message]) -> list[Rating]:
        if self._num_rated + len(replies) > self._lives:
            raise RuntimeError("killed")
        self._num_rated += len(replies)
        values = [min(5, len(reply.text.split())) for reply in replies]
        return [dict.fromkeys(DIMENSIONS, value) for value in values]

    def prefer(
        self,
        contexts: Sequence[Conversation],
        firsts: Sequence[Message],
        seconds: Sequence[Message],
    ) -> list[Preference | None]:
        found: list[Preference | None] = []
        for first, second in zip(firsts, seconds, strict=True):
            more = len(first.text.split()) - len(second.text.split())
            found.append("first" if more > 0 else "second" if more < 0 else "tie")
        return found

    def close(self) -> None:
        self.is_closed = True


def scripted() -> ScriptedReplies:
    return ScriptedReplies(num_dialogues=40, corpus_seed=6, batch_size=4, val_fraction=0.1)


def measure(
    folder: Path, make: Callable[..., Any], data: Replies, **settings: Any
) -> dict[str, Any]:
    policies = {"knowing": Knowing(data), "silent": Knowing(data, is_silent=True)}
    make(folder).test(QualityModule(policies, batch_size=7, **settings), data, verbose=False)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_the_humans_own_words_are_as_like_as_can_be_and_silence_is_unlike(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    summary = measure(tmp_path, quiet_trainer, scripted())
    rows = summary["supporters"]
    assert list(rows) == ["knowing", "silent", "human", "human_elsewhere"]
    knowing, silent, human = rows["knowing"], rows["silent"], rows["human"]
    for name in ("bleu_2", "bleu_4", "rouge_l", "strategy_accuracy"):
        assert knowing[name] == pytest.approx(1)
        assert silent[name] == 0
        assert knowing[name] > rows["human_elsewhere"][name] > 0
    assert silent["meteor_no_synonyms"] == 0
    # One chunk of n words costs .5 / n^3: METEOR of a text with itself is a little below 1.
    assert 0.99 < knowing["meteor_no_synonyms"] < 1
    assert (silent["empty"], silent["words"], human["empty"]) == (1, 0, 0)
    # The human is the yardstick of form and has no likeness to itself.
    assert human == {name: knowing[name] for name in human}
    assert "rouge_l" not in human
    # Everybody's strategies are those of the corpus, and all human replies name one.
    assert {"question", "suggest"} <= set(summary["strategies"])
    assert human["strategy_share/(none named)"] == 0


def test_contexts_are_counted_that_were_replied_to(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    data = scripted()
    module = QualityModule({"knowing": Knowing(data)})
    quiet_trainer(tmp_path, limit_test_batches=2).test(module, data, verbose=False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "replies" / "0.jsonl").open()]
    # Two batches of four.
    assert summary["contexts"] == len(rows) == 8
    assert summary["dialogues"] == len({row["id"].split("/")[0] for row in rows})


def test_replies_are_written_for_people_to_read(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    summary = measure(tmp_path, quiet_trainer, scripted())
    rows = [json.loads(line) for line in (tmp_path / "replies" / "0.jsonl").open()]
    assert len(rows) == summary["contexts"]
    assert len({row["id"].split("/")[0] for row in rows}) == summary["dialogues"] == 4
    for row in rows:
        assert row["messages"][-1]["role"] == "seeker"
        assert row["replies"]["knowing"] == row["replies"]["human"]
        assert row["replies"]["silent"]["failure"] == "the server is gone"
    own = [row["replies"]["human"]["content"] for row in rows]
    assert sorted(own) == sorted(row["replies"]["human_elsewhere"]["content"] for row in rows)


def test_one_dialogue_has_no_interval_no_strategy_no_share_and_an_encoder_its_score(
    quiet_trainer: Callable[..., Any], tmp_path: Path, pocket_folder: Path
) -> None:
    roles = ("user", "assistant", "user", "assistant")
    said = [{"role": role, "content": f"I say {n}."} for n, role in enumerate(roles)]
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps({"messages": said}) + "\n" + json.dumps({"messages": said}) + "\n")
    data = FileReplies([str(file)], val_fraction=0.5)
    encoder = Backbone(str(pocket_folder))
    rows = measure(tmp_path, quiet_trainer, data, bert_model=encoder)["supporters"]
    row = rows["knowing"]
    assert row["bert_score"] == pytest.approx(1, abs=1e-4)
    assert rows["silent"]["bert_score"] == 0
    assert row["rouge_l"] == pytest.approx(1)
    assert row["rouge_l_low"] is None
    assert not any(name.startswith("strategy") for name in row)


def test_a_judge_rates_everybody_and_compares_both_ways(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    judge = Wordy()
    comparisons = [("knowing", "silent"), ("human", "knowing"), ("human", "human_elsewhere")]
    data = scripted()
    summary = measure(tmp_path, quiet_trainer, data, judge=judge, comparisons=comparisons)
    assert judge.is_closed
    rows = summary["supporters"]
    assert summary["judge"]["name"] == "wordy"
    # Nobody asks the judge about silence: it has the lowest rating, and every word is better.
    assert [rows["silent"][f"judged/{name}"] for name in DIMENSIONS] == [1] * 5
    assert rows["human"]["judged/overall"] == rows["knowing"]["judged/overall"] > 4
    spoken, same, other = summary["comparisons"]
    assert (spoken["first"], spoken["second"]) == ("knowing", "silent")
    assert (spoken["wins"], spoken["win_rate"]) == (spoken["pairs"], 1)
    # All pairs agree: no more is known than of one pair per dialogue, 4 of 4.
    assert spoken["win_rate_low"] == pytest.approx(wilson_interval(4, 4).low)
    assert (same["ties"], same["torn"], same["win_rate"]) == (same["pairs"], 0, 0.5)
    lines = [json.loads(line) for line in (tmp_path / "replies" / "0.jsonl").open()]
    counts = [
        [len(line["replies"][name]["content"].split()) for name in ("human", "human_elsewhere")]
        for line in lines
    ]
    assert other["wins"] == sum(own > their for own, their in counts)
    assert other["losses"] == sum(own < their for own, their in counts)
    assert [line["ratings"]["human"]["overall"] for line in lines] == [
        min(5, own) for own, _ in counts
    ]
    assert {line["comparisons"][0]["swapped"] for line in lines} == {"second"}


def test_a_stopped_evaluation_goes_on_and_ends_with_the_same_files(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    def run(name: str, judge: Wordy, asked: list[str]) -> dict[str, bytes]:
        data = scripted()
        policy = Counting(data, asked)
        module = QualityModule({"knowing": policy}, batch_size=7, judge=judge)
        quiet_trainer(tmp_path / name).test(module, data, verbose=False)
        files = [tmp_path / name / "summary.json", tmp_path / name / "replies" / "0.jsonl"]
        return {file.name: file.read_bytes() for file in files}

    whole_asked: list[str] = []
    whole = Wordy()
    expected = run("whole", whole, whole_asked)
    asked: list[str] = []
    with pytest.raises(RuntimeError, match="killed"):
        run("stopped", Wordy(lives=20), asked)
    again = Wordy()
    assert run("stopped", again, asked) == expected
    # No reply was asked for twice, and the two batches of seven that had been rated are not rated.
    assert asked == whole_asked
    assert again._num_rated == whole._num_rated - 14
    assert not (tmp_path / "stopped" / ".unfinished").exists()


def is_odd(context: Conversation) -> bool:
    return sum(map(ord, context.id)) % 2 == 1


class Served(Knowing):
    """Gives up on odd contexts while its server is down."""

    _is_down = False

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        failed = Message(role="supporter", text="", failure="the server is gone")
        return [
            failed if self._is_down and is_odd(talk) else reply
            for talk, reply in zip(conversations, super().reply(conversations), strict=True)
        ]


class ServedJudge(Wordy):
    """Gives no answer about odd contexts and lengths while its server is down."""

    _is_down = False

    def rate(self, contexts: Sequence[Conversation], replies: Sequence[Message]) -> list[Rating]:
        ratings = super().rate(contexts, replies)
        for place, context in enumerate(contexts):
            if self._is_down and is_odd(context):
                ratings[place] = {**ratings[place], "overall": None}
        return ratings

    def prefer(
        self,
        contexts: Sequence[Conversation],
        firsts: Sequence[Message],
        seconds: Sequence[Message],
    ) -> list[Preference | None]:
        found = super().prefer(contexts, firsts, seconds)
        return [
            None if self._is_down and len(reply.text) % 2 else preference
            for reply, preference in zip(firsts, found, strict=True)
        ]


def test_what_a_server_failed_to_answer_is_asked_again_when_the_run_goes_on(
    quiet_trainer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, *, is_down: bool) -> dict[str, bytes]:
        data = scripted()
        policy, judge = Served(data), ServedJudge()
        policy._is_down = judge._is_down = is_down
        pairs = [("served", "human")]
        module = QualityModule({"served": policy}, judge=judge, comparisons=pairs)
        quiet_trainer(tmp_path / name).test(module, data, verbose=False)
        files = [tmp_path / name / "summary.json", tmp_path / name / "replies" / "0.jsonl"]
        return {file.name: file.read_bytes() for file in files}

    def killed(*_: Any) -> None:
        raise ConnectionError("killed")

    expected = run("whole", is_down=False)
    with monkeypatch.context() as patch:
        patch.setattr("rlff_lightning.modules.quality.write_replies", killed)
        with pytest.raises(ConnectionError):
            run("stopped", is_down=True)
    [kept] = (tmp_path / "stopped" / ".unfinished").glob("*/0.jsonl")
    rows = [json.loads(line) for line in kept.open()]
    whole = len(expected["0.jsonl"].splitlines())
    for part in ("replies of served", "rating served", "rating human", "comparing served, human"):
        assert 0 < sum(row["part"] == part for row in rows) < whole
    assert run("stopped", is_down=False) == expected


def test_a_bar_shows_how_the_judge_gets_on_unless_bars_are_off(
    quiet_trainer: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_shown in (False, True):
        data = scripted()
        module = QualityModule({"knowing": Knowing(data)}, judge=Wordy())
        quiet_trainer(tmp_path, enable_progress_bar=is_shown).test(module, data, verbose=False)
        shown = capsys.readouterr().err
        assert ("rating knowing: 100%" in shown) == is_shown
        assert ("contexts/s" in shown) == is_shown


def test_every_two_policies_are_compared_unless_pairs_are_named() -> None:
    policies = {name: Knowing(scripted()) for name in "abc"}
    pairs = QualityModule(policies, judge=Wordy()).comparisons
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    with pytest.raises(UserError, match=r"comparisons need a judge, got none"):
        QualityModule(policies, comparisons=[("a", "b")])
    for pair in (("a", "a"), ("a", "d")):
        with pytest.raises(UserError, match=r"two different supporters of a, b, c, human, human_e"):
            QualityModule(policies, judge=Wordy(), comparisons=[pair])


@pytest.mark.timeout(900)
def test_two_processes_give_the_table_of_one(tmp_path: Path) -> None:
    summaries = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        (folder / "replies").mkdir(parents=True)
        (folder / "replies" / "2.jsonl").write_text("{}\n")
        command = [sys.executable, str(SCRIPT), str(devices), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        summaries.append(json.loads((folder / "summary.json").read_text()))
    one, two = (summary.pop("supporters") for summary in summaries)
    assert summaries[0] == summaries[1]
    # An odd number of contexts: the Trainer repeats one to give both processes as many.
    assert summaries[0]["contexts"] % 2 == 1
    for name in one:
        assert two[name] == pytest.approx(one[name], abs=1e-6)
    [compared] = summaries[0]["comparisons"]
    assert compared["pairs"] == summaries[0]["contexts"]
    assert min(compared["torn"], compared["wins"] + compared["losses"]) > 0
    # The second run wrote two files into a folder where an earlier one had written three.
    texts = [file.read_text() for file in (tmp_path / "2" / "replies").iterdir()]
    assert len(texts) == 2
    assert sum(len(text.splitlines()) for text in texts) == summaries[0]["contexts"]


def test_mistakes_are_told_before_anything_is_asked() -> None:
    policy = Knowing(scripted())
    with pytest.raises(UserError, match=r"policies must name a supporter, got none"):
        QualityModule({})
    with pytest.raises(UserError, match=r"policies must not be named 'human'"):
        QualityModule({"human": policy})
    with pytest.raises(UserError, match=r"batch_size must be at least 1, got 0"):
        QualityModule({"knowing": policy}, batch_size=0)


def test_wordnet_is_asked_for_by_name_where_it_is_missing(
    quiet_trainer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="METEOR with synonyms needs NLTK's WordNet data"):
        measure(tmp_path, quiet_trainer, scripted(), use_wordnet=True)


def test_no_figure_is_cut_off_at_a_terminals_usual_width(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = ("bleu_2", "bleu_4", "rouge_l", "meteor_no_synonyms", "strategy_accuracy")
    row = dict.fromkeys((*figures, "distinct_1", "distinct_2", "repetition"), 0.1234)
    row |= {"words": 12.3, "judged/unparsed": 0.0, "bleu_2_low": 0.1, "bleu_2_high": 0.15}
    for name in DIMENSIONS:
        row |= {f"judged/{name}": 3.25, f"judged/{name}_low": 3.0, f"judged/{name}_high": 3.5}
    compared = {"first": "rlff", "second": "human", "win_rate": 0.625, "win_rate_low": 0.5}
    compared |= {"win_rate_high": 0.75, "wins": 31, "ties": 3, "torn": 2, "losses": 17}
    summary = {
        "contexts": 40,
        "dialogues": 8,
        "supporters": dict.fromkeys(("sft", "rlff", "human", "human_elsewhere"), row),
        "judge": {"name": "a judge", "hash": "abc"},
        "comparisons": [{**compared, "unparsed": 0}],
        "notes": [],
    }
    print_quality(summary, tmp_path)
    shown = capsys.readouterr().out
    assert "\u2026" not in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["BLEU-2", *["12.3"] * 4] in lines
    assert ["10.0", "to", "15.0"] * 4 in lines
    assert ["identification", *["3.25"] * 4] in lines
    assert ["rlff", "against", "human", "0.625", "31", "3", "2", "17", "0"] in lines
