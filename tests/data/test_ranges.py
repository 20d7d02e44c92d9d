import math
from typing import Any

import pytest

from rlff_lightning.data.labelled import JudgedDialogues, StoredFutures
from rlff_lightning.data.replies import FileReplies, ScriptedReplies
from rlff_lightning.errors import UserError


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"gamma": 0.0}, r"gamma must be in \(0, 1\], got 0.0"),
        ({"gamma": 1.01}, r"gamma must be in \(0, 1\], got 1.01"),
        ({"gamma": math.nan}, "gamma must be in"),
        ({"look_ahead": 0}, "look_ahead must be at least 1, got 0"),
        ({"test_fraction": -0.1}, r"test_fraction must be in \[0, 1\), got -0.1"),
        ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\), got 1.0"),
        (
            {"val_fraction": 0.5, "test_fraction": 0.5},
            r"val_fraction \+ test_fraction must be below 1 .*got 0.5 \+ 0.5",
        ),
    ],
)
def test_judged_dialogues_refuse_a_number_out_of_its_range(
    settings: dict[str, Any], rule: str
) -> None:
    with pytest.raises(UserError, match=f"^JudgedDialogues.{rule}"):
        JudgedDialogues(["x.jsonl"], **settings)


def test_the_ends_of_a_range_are_accepted_where_they_mean_something() -> None:
    JudgedDialogues(["x.jsonl"], gamma=1.0, look_ahead=1, val_fraction=0.0, test_fraction=0.99)
    StoredFutures("futures", batch_size=1, val_fraction=0.0, test_fraction=0.0)
    FileReplies(["x.jsonl"], batch_size=1, val_fraction=0.0)


@pytest.mark.parametrize(
    ("make", "owner"),
    [
        (lambda **settings: StoredFutures("futures", **settings), "StoredFutures"),
        (lambda **settings: FileReplies(["x.jsonl"], **settings), "FileReplies"),
        (lambda **settings: ScriptedReplies(**settings), "ScriptedReplies"),
    ],
)
def test_every_data_module_refuses_an_empty_batch_and_a_share_of_everything(
    make: Any, owner: str
) -> None:
    with pytest.raises(UserError, match=f"^{owner}.batch_size must be at least 1, got 0"):
        make(batch_size=0)
    with pytest.raises(UserError, match=f"^{owner}.val_fraction must be in"):
        make(val_fraction=1.0)
