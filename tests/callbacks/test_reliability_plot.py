import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from callbacks.reliability_plot import ReliabilityPlot, draw
from rlff_lightning.data.labelled import StoredFutures
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.modules.reward_model import RewardModule

POINT = {"predicted": 0.1, "observed": 0.3, "replies": 4}


def test_a_plot_is_drawn_of_points_and_of_none_is_not(tmp_path: Path) -> None:
    draw([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    draw([POINT], tmp_path / "one.png")
    draw([POINT, {**POINT, "predicted": 0.9}], tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()


def test_a_test_of_the_reward_model_leaves_figures_by_slice_and_their_plot(
    reward_folder: Path, futures_folder: Path, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = RewardModule(Backbone(str(reward_folder)), trained=str(reward_folder))
    data = StoredFutures(str(futures_folder), test_fraction=0.2)
    trainer = quiet_trainer(tmp_path, callbacks=[ReliabilityPlot()])
    logged = trainer.test(module, data, verbose=False)[0]
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "quality.json").read_text())
    held_out = len(data.part(2))
    assert sum(point["replies"] for point in written["reliability"]) == held_out
    for kind in ("turn", "problem"):
        assert sum(part["replies"] for part in written["slices"][kind].values()) == held_out
    assert abs(logged["test/mse"] - written["models"]["reward_model"]["mse"]) < 1e-6
