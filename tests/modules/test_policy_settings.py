import warnings

import pytest

from rlff_lightning.errors import UserError
from rlff_lightning.functional.objectives import GRPO, DrGRPO
from rlff_lightning.modules.policy_settings import check_agreement
from rlff_lightning.rollout.settings import RolloutSettings

FITTING = RolloutSettings(max_tokens=64, advantage_scale="none")


def test_settings_that_agree_are_taken_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_agreement(DrGRPO(max_tokens=64), FITTING)
        check_agreement(GRPO(), RolloutSettings())


def test_a_constant_that_is_not_the_rollouts_limit_is_told_by_both() -> None:
    line = r"DrGRPO.max_tokens=32 divides the loss.*rollout.max_tokens=64.* is 2 times"
    with pytest.warns(UserWarning, match=line):
        check_agreement(DrGRPO(max_tokens=32), FITTING)


def test_dr_grpo_with_advantages_divided_by_a_std_is_told_the_key_to_set() -> None:
    with pytest.warns(UserWarning, match=r"set rollout.advantage_scale to none, got 'group'"):
        check_agreement(DrGRPO(max_tokens=64), RolloutSettings(max_tokens=64))


def test_staleness_that_nothing_corrects_is_refused() -> None:
    with pytest.raises(UserError, match=r"ahead must be false .* nothing would correct"):
        check_agreement(GRPO(mismatch_cap=None), RolloutSettings(ahead=True))
    check_agreement(GRPO(mismatch_cap=None, mismatch_range=(0.5, 2)), RolloutSettings(ahead=True))
