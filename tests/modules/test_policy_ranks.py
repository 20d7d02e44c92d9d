"""Two processes train one policy: the tests beside this file, in a process of their own."""

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.timeout(900)


def test_two_ranks_keep_their_promises(fresh_pytest: Callable[[str], int]) -> None:
    assert fresh_pytest("ranks_in_a_fresh_process.py") == 2
