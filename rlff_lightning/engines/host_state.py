"""Leave the process as it was: an engine shares it with the trainer."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch


@contextmanager
def rng_kept() -> Iterator[None]:
    """Give torch's random state back; without it sampling would shift the trainer's draws."""
    state = torch.get_rng_state()
    # Asking a GPU that nothing has used yet would set it up.
    is_on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda_states = torch.cuda.get_rng_state_all() if is_on_gpu else []
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if is_on_gpu:
            torch.cuda.set_rng_state_all(cuda_states)


def same_device() -> Callable[[], None]:
    """Give what another thread calls to use this one's GPU: CUDA has a current one per thread."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return lambda: None
    return partial(torch.cuda.set_device, torch.cuda.current_device())


@contextmanager
def host_kept(*, own_prefix: str) -> Iterator[None]:
    """Give random states, threads, dtype and environment back after an engine has started.

    Args:
        own_prefix: Environment variables with this prefix are the engine's own and stay as it
            leaves them.
    """
    # An engine on CPU replaces this function by one that does nothing.
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    dtype, environment = torch.get_default_dtype(), dict(os.environ)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with rng_kept():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_default_dtype(dtype)
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(num_threads)
        _restore(environment, own_prefix)


def _restore(environment: dict[str, str], own_prefix: str) -> None:
    for name in {*os.environ, *environment}:
        if name.startswith(own_prefix):
            continue
        if name in environment:
            os.environ[name] = environment[name]
        else:
            del os.environ[name]
