"""Two processes train one reward model: the tests beside this file, in a process of their own."""

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.timeout(900)


def test_two_ranks_train_and_test_as_one(fresh_pytest: Callable[[str], int]) -> None:
    assert fresh_pytest("reward_ranks_in_a_fresh_process.py") == 3
