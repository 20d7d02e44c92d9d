import pytest
import torch
from torch import Tensor

from rlff_lightning.models.group_inputs import group_inputs
from rlff_lightning.models.pocket import build_pocket_model

PROMPT_IDS = torch.tensor([[0, 11, 12], [21, 22, 23]])
PROMPT_MASK = torch.tensor([[False, True, True], [True, True, True]])
COMPLETION_IDS = torch.tensor([[31, 32], [33, 0], [34, 35], [36, 0]])
COMPLETION_MASK = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
GROUPS = PROMPT_IDS, PROMPT_MASK, COMPLETION_IDS, COMPLETION_MASK


def test_padded_rows_repeat_the_prompt_and_count_places_by_the_mask():
    found = group_inputs(torch.nn.Identity(), "padded", *GROUPS)
    assert found.inputs["input_ids"].tolist() == [
        [0, 11, 12, 31],
        [0, 11, 12, 33],
        [21, 22, 23, 34],
        [21, 22, 23, 36],
    ]
    assert found.inputs["position_ids"].tolist() == [[0, 0, 1, 2]] * 2 + [[0, 1, 2, 3]] * 2
    # Four columns a row. 31 and 33 follow their prompts' 12 at column 2, 32 follows 31.
    assert found.read.tolist() == [2, 3, 6, 10, 11, 14]


def test_padded_rows_can_hold_last_tokens_too():
    found = group_inputs(torch.nn.Identity(), "padded", *GROUPS, read="last")
    assert found.inputs["input_ids"][0].tolist() == [0, 11, 12, 31, 32]
    # Five columns a row; the last tokens are 32, 33, 35 and 36.
    assert found.read.tolist() == [4, 8, 14, 18]


def test_auto_shares_long_prompts_and_pads_tiny_ones():
    model = build_pocket_model(50, eos_id=0, pad_id=0)
    for length, is_shared in ((300, True), (2, False)):
        prompt_ids = torch.ones(1, length, dtype=torch.long)
        completion_ids = torch.ones(8, 3, dtype=torch.long)
        found = group_inputs(
            model, "auto", prompt_ids, prompt_ids.bool(), completion_ids, completion_ids.bool()
        )
        assert ("prefix_layout" in found.inputs) == is_shared


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({0: PROMPT_IDS[:, :2]}, "shape of their ids"),
        ({2: COMPLETION_IDS[:3], 3: COMPLETION_MASK[:3]}, "whole groups"),
        ({1: PROMPT_MASK.flip(1)}, "left-padded"),
        ({1: torch.zeros_like(PROMPT_MASK)}, "at least one token"),
        ({3: COMPLETION_MASK.flip(1)}, "right-padded"),
    ],
)
def test_batches_that_are_no_groups_are_refused(changed: dict[int, Tensor], message: str):
    batch = [changed.get(i, tensor) for i, tensor in enumerate(GROUPS)]
    with pytest.raises(ValueError, match=message):
        group_inputs(torch.nn.Identity(), "padded", *batch)
