import math
import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sacrebleu import BLEU

from rlff_lightning.errors import UserError
from rlff_lightning.functional.diversity import distinct
from rlff_lightning.metrics.quality import UNNAMED, ReferenceLikeness, ReplyForm
from rlff_lightning.metrics.quality_bert import BertScore
from rlff_lightning.metrics.quality_distinct import Distinct
from rlff_lightning.metrics.quality_strategy import followed_strategy
from rlff_lightning.metrics.quality_text import meteor_without_synonyms, rouge_l, words
from rlff_lightning.types import Message

STRATEGIES = ["Question", "Reflection of feelings", "Feelings", "Others"]
TEXT = "I see you , feel so sad ; it's a hard time . exam could try to talk ? (really) 3.5%"
WORDS = TEXT.split()


def say(text: str, strategy: str = "", reasoning: str = "") -> Message:
    return Message(role="supporter", text=text, strategy=strategy, reasoning=reasoning)


def babble(count: int) -> tuple[list[Message], list[Message], torch.Tensor]:
    """Replies, references and dialogues; some replies are empty."""
    draw = random.Random(0)

    def texts() -> list[str]:
        return [" ".join(draw.choices(WORDS, k=draw.randint(0, 20))) for _ in range(count)]

    replies = [say(text, reasoning=draw.choice(STRATEGIES)) for text in texts()]
    references = [say(text, strategy=draw.choice([*STRATEGIES, ""])) for text in texts()]
    return replies, references, torch.arange(count) // 4 + 2**40


def test_bleu_is_that_of_sacrebleu() -> None:
    replies, references, dialogues = babble(80)
    likeness = ReferenceLikeness()
    for rows in (slice(0, 30), slice(30, 80)):
        likeness.update(replies[rows], references[rows], dialogues[rows])
    found = likeness.compute()
    said, human = [r.text for r in replies], [r.text for r in references]
    for size in (2, 4):
        bleu = BLEU(lowercase=True, max_ngram_order=size, smooth_method="none")
        expected = bleu.corpus_score(said, [human]).score / 100
        assert found[f"bleu_{size}"] == pytest.approx(expected, abs=1e-6)
        assert expected > 0.01
        assert found[f"bleu_{size}_low"] < expected < found[f"bleu_{size}_high"]


def test_bleu_without_a_shared_pair_of_words_is_nothing_and_one_dialogue_bounds_nothing() -> None:
    likeness = ReferenceLikeness()
    likeness.update([say("you feel"), say("")], [say("feel you"), say("hm")], torch.tensor([5, 5]))
    found = likeness.compute()
    assert (found["bleu_2"], found["bleu_4"]) == (0, 0)
    assert found["bleu_2_high"] == math.inf


def test_rouge_l_is_that_of_googles_package() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    replies, references, _ = babble(40)
    scorer = RougeScorer(["rougeL"])
    for reply, human in zip(replies, references, strict=True):
        expected = scorer.score(human.text, reply.text)["rougeL"].fmeasure
        assert rouge_l(reply.text, human.text) == pytest.approx(expected, abs=1e-6)


def test_rouge_l_of_a_worked_example() -> None:
    # "you feel" is the longest common subsequence: recall 2/4, precision 2/3, F1 = 4/7.
    assert rouge_l("you feel fine", "do you really feel") == pytest.approx(4 / 7)


def test_meteor_is_nltks_without_a_thesaurus() -> None:
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.meteor_score import meteor_score

    class Empty:
        def synsets(self, word: str) -> list[object]:
            return []

    replies, references, _ = babble(40)
    for reply, human in zip(replies, references, strict=True):
        said, meant = (wordpunct_tokenize(m.text.lower()) for m in (reply, human))
        expected = meteor_score([meant], said, wordnet=Empty())
        assert meteor_without_synonyms(reply.text, human.text) == pytest.approx(expected, abs=1e-6)


def test_meteor_counts_stems_and_chunks_but_no_synonyms() -> None:
    # Matched: "you", "feel" exactly, "exams" with "exam" by its stem; 3 of 4 words in the reply,
    # 3 of 5 in the reference. F = P R / (.9 P + .1 R) = .45 / .735. "feel exam" lies together and
    # "you" apart: 2 chunks, penalty .5 (2/3)^3.
    expected = 0.45 / (0.9 * 0.75 + 0.1 * 0.6) * (1 - 0.5 * (2 / 3) ** 3)
    found = meteor_without_synonyms("You surely feel exams", "you may not feel exam")
    assert found == pytest.approx(expected)
    assert meteor_without_synonyms("big", "large") == 0


def test_words_part_punctuation_from_letters() -> None:
    assert words("It's hard, RIGHT?") == ["it", "'", "s", "hard", ",", "right", "?"]


def test_variety_over_batches_is_that_of_all_texts_together() -> None:
    texts = [words(reply.text) for reply in babble(40)[0]]
    for size in (1, 2):
        metric = Distinct(size)
        dialogues = torch.arange(40) // 4
        metric.update(texts[:15], dialogues[:15])
        metric.update(texts[15:], dialogues[15:])
        found = metric.compute()
        assert found.value == pytest.approx(distinct(texts, size))
        # Leaving out the dialogues one by one, as the definition says.
        without = [distinct(texts[:start] + texts[start + 4 :], size) for start in range(0, 40, 4)]
        middle = sum(without) / 10
        error = math.sqrt(0.9 * sum((other - middle) ** 2 for other in without))
        # t(.975; 9) = 2.26216
        assert found.high - found.value == pytest.approx(2.26216 * error, rel=1e-5)
    with pytest.raises(UserError, match=r"Distinct.size must be at least 1, got 0"):
        Distinct(0)


@pytest.mark.parametrize(
    ("reply", "strategy"),
    [
        (say("a", reasoning="first a QUESTION, to explore"), "Question"),
        (say("a", reasoning="Reflection of feelings"), "Reflection of feelings"),
        (say("a", reasoning="question or others?"), None),
        (say("a", reasoning="questions"), None),
        (say("a", strategy="Others", reasoning="Question"), "Others"),
        (say("a"), None),
    ],
)
def test_a_reply_follows_the_one_strategy_that_it_names(
    reply: Message, strategy: str | None
) -> None:
    assert followed_strategy(reply, STRATEGIES) == strategy


def test_a_name_that_ends_in_a_bracket_is_found_as_one_word() -> None:
    names = ["Reflective Statements (RS)", "Clarification"]
    named = say("a", reasoning="I take reflective statements (rs), as before.")
    assert followed_strategy(named, names) == names[0]
    assert followed_strategy(say("a", reasoning="clarifications"), names) is None


def test_strategies_are_right_if_a_human_chose_one_of_them() -> None:
    replies = [say("a", reasoning=name) for name in ("Question", "Question", "Others", "hm")]
    human = [say("b", strategy=name) for name in ("Others, Question", "Others", "", "Feelings")]
    likeness, form = ReferenceLikeness(strategies=STRATEGIES), ReplyForm(STRATEGIES)
    likeness.update(replies, human, torch.arange(4))
    form.update(replies, torch.arange(4))
    # The third context has no gold strategy; of the other three the first is right.
    assert likeness.compute()["strategy_accuracy"] == pytest.approx(1 / 3)
    shares = form.compute()
    assert shares["strategy_share/Question"] == 0.5
    assert shares[f"strategy_share/{UNNAMED}"] == 0.25


def test_strategies_that_are_not_listed_are_no_mistake_and_letter_case_is_none() -> None:
    likeness = ReferenceLikeness(strategies=["Question"])
    replies = [say("a", reasoning="Question")] * 3
    human = [say("b", strategy=name) for name in ("question", "Unheard of", "Question, Unheard of")]
    likeness.update(replies, human, torch.arange(3))
    # Of the second human reply no reply could have followed the strategy.
    assert likeness.compute()["strategy_accuracy"] == 1


def test_form_of_three_replies() -> None:
    form = ReplyForm()
    form.update([say("so it goes so it goes so"), say(""), say("Hm.")], torch.tensor([1, 1, 2]))
    found = form.compute()
    # 7 + 0 + 2 words ("hm" and "."); 5 different ones of 9.
    assert found["words"] == pytest.approx(3)
    assert found["distinct_1"] == pytest.approx(5 / 9)
    assert found["empty"] == pytest.approx(1 / 3)
    # Triples "so it goes", "it goes so", "goes so it" and the first two again: 2 of 5 repeat.
    assert found["repetition"] == pytest.approx(0.4 / 3)
    assert found["words_low"] <= found["words"] <= found["words_high"]
    assert not any(name.startswith("strategy") for name in found)


def test_bert_score_compares_a_reply_with_its_own_reference(pocket_folder: Path) -> None:
    from transformers import AutoModel

    from rlff_lightning.models.backbone import Backbone

    tokenizer = Backbone(str(pocket_folder)).tokenizer()
    score = BertScore(AutoModel.from_pretrained(pocket_folder).eval(), tokenizer, 512)
    same = "I am really worn out and it is all too much."
    assert score(same, same) == pytest.approx(1, abs=1e-5)
    assert score("Hello.", same) < 0.999
    assert score("", same) == 0
    with pytest.raises(UserError, match="reads at most 512 tokens, got a text of"):
        score("exam " * 600, same)


def measure(rows: list[int]) -> dict[str, float]:
    replies, references, dialogues = babble(23)
    form = ReplyForm(STRATEGIES)
    likeness = ReferenceLikeness({"meteor": meteor_without_synonyms}, STRATEGIES)
    for start in range(0, len(rows), 4):
        batch = rows[start : start + 4]
        said, human = [replies[row] for row in batch], [references[row] for row in batch]
        form.update(said, dialogues[batch])
        likeness.update(said, human, dialogues[batch])
    return form.compute() | likeness.compute()


def work(rank: int, folder: str, splits: list[list[list[int]]]) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.save([measure(parts[rank]) for parts in splits], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_measure_what_one_does_even_if_one_has_no_reply(tmp_path: Path) -> None:
    rows = list(range(23))
    splits = [[rows[::2], rows[1::2]], [rows, []]]
    mp.spawn(work, args=(str(tmp_path), splits), nprocs=2)
    expected = measure(rows)
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            assert found == pytest.approx(expected, abs=1e-6)
