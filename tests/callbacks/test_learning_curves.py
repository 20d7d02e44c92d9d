"""Curves are drawn from what was logged."""

import pandas as pd
import pytest

from callbacks.learning_curves import LearningCurves, draw
from rlff_lightning.errors import UserError

PNG = b"\x89PNG"


def test_every_logged_key_gets_a_panel_and_a_missing_one_none(tmp_path):
    metrics = pd.DataFrame({"step": [0, 1, 2], "a": [1.0, None, 2.0], "b": [0.0, 1.0, 2.0]})
    draw(metrics, ["a"], tmp_path / "one.png")
    draw(metrics, ["a", "never_logged"], tmp_path / "same.png")
    draw(metrics, ["a", "b"], tmp_path / "two.png")
    one, same, two = ((tmp_path / f"{n}.png").read_bytes() for n in ("one", "same", "two"))
    assert one[:4] == PNG
    assert one == same
    assert one != two


def test_nothing_logged_draws_nothing(tmp_path):
    draw(pd.DataFrame({"step": [0], "a": [None]}), ["a"], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_curves_without_a_key_are_refused():
    with pytest.raises(UserError, match=r"LearningCurves.keys must name a log key"):
        LearningCurves([])
