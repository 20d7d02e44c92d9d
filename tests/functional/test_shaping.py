import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.errors import UserError
from rlff_lightning.functional.shaping import overlong_penalty, repetition_penalty


def test_overlong_penalty_falls_linearly_within_the_buffer() -> None:
    # Limit 100, buffer 20: free up to 80, at 85 it is (80 - 85) / 20 = -0.25, at 100 it is -1.
    penalties = overlong_penalty(
        torch.tensor([10, 80, 85, 100, 140]), max_tokens=100, buffer_tokens=20
    )
    assert penalties.tolist() == [0.0, 0.0, -0.25, -1.0, -1.0]


@pytest.mark.parametrize("buffer_tokens", [0, 101])
def test_a_buffer_that_does_not_fit_is_refused(buffer_tokens: int) -> None:
    with pytest.raises(UserError, match=r"buffer_tokens must be in \[1, max_tokens=100\]"):
        overlong_penalty(torch.tensor([1]), max_tokens=100, buffer_tokens=buffer_tokens)


def test_repetition_penalty_is_the_share_of_repeated_ngrams() -> None:
    # Bigrams of 5 5 5 5 5: one unique of four, -0.75. Of 1 2 1 2: (12)(21)(12), -1/3. Of 1 2 3: 0.
    ids = torch.tensor([[5, 5, 5, 5, 5], [1, 2, 1, 2, 0], [1, 2, 3, 0, 0]])
    mask = torch.arange(5) < torch.tensor([[5], [4], [3]])
    penalties = repetition_penalty(ids, mask, ngram_size=2)
    assert penalties.tolist() == pytest.approx([-0.75, -1 / 3, 0.0])


def test_a_completion_shorter_than_an_ngram_repeats_nothing() -> None:
    mask = torch.tensor([[True, True, False]])
    assert repetition_penalty(torch.tensor([[7, 7, 7]]), mask, ngram_size=3).tolist() == [0.0]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 4), st.integers(0, 3))
def test_repetition_penalty_ignores_what_is_masked(
    tokens: list[int], ngram_size: int, columns: int
) -> None:
    ids, mask = torch.tensor([tokens]), torch.ones(1, len(tokens), dtype=torch.bool)
    plain = repetition_penalty(ids, mask, ngram_size=ngram_size)
    padded = repetition_penalty(
        torch.nn.functional.pad(ids, (columns, columns)),
        torch.nn.functional.pad(mask, (columns, columns)),
        ngram_size=ngram_size,
    )
    assert plain.tolist() == padded.tolist()
    assert -1 < plain.item() <= 0


def test_an_ngram_of_no_token_is_refused() -> None:
    with pytest.raises(UserError, match="ngram_size must be at least 1, got 0"):
        repetition_penalty(torch.zeros(1, 1), torch.ones(1, 1).bool(), ngram_size=0)
