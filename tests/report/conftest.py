import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_run() -> Callable[..., Path]:
    """Write a small run into a folder."""
    file = Path(__file__).with_name("small_run.py")
    spec = importlib.util.spec_from_file_location("small_run", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    write: Callable[..., Path] = module.write_run
    return write
