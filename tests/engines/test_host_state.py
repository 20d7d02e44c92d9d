import os
import random

import numpy as np
import pytest
import torch

from rlff_lightning.engines.host_state import host_kept, rng_kept


def test_draws_inside_do_not_shift_draws_outside():
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    with rng_kept():
        torch.rand(100)
    assert torch.equal(torch.rand(4), expected)


@host_kept(own_prefix="OWN_")
def _start_badly(num_threads):
    os.environ.update(CHANGED="inside", ADDED="inside", OWN_SETTING="inside")
    del os.environ["REMOVED"]
    random.seed(9)
    np.random.seed(9)
    torch.set_num_threads(num_threads)
    torch.set_num_threads = lambda _: None
    torch.set_default_dtype(torch.float64)
    raise OSError("failed")


def test_a_start_that_changes_everything_leaves_nothing_changed_even_if_it_fails(monkeypatch):
    monkeypatch.setenv("CHANGED", "before")
    monkeypatch.setenv("REMOVED", "before")
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    with pytest.raises(OSError, match="failed"):
        _start_badly(num_threads + 1)
    assert os.environ["CHANGED"] == os.environ["REMOVED"] == "before"
    assert "ADDED" not in os.environ
    assert os.environ.pop("OWN_SETTING") == "inside"
    assert (random.random(), np.random.rand()) == expected
    assert torch.set_num_threads is set_num_threads
    assert torch.get_num_threads() == num_threads
    assert torch.get_default_dtype() == torch.float32
