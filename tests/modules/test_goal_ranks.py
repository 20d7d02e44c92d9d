"""Two processes evaluate as one: the tests beside this file, in a process of their own."""

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.timeout(900)


def test_the_table_of_two_processes_in_a_process_without_threads(
    fresh_pytest: Callable[[str], int],
) -> None:
    assert fresh_pytest("goal_ranks_in_a_fresh_process.py") == 3
