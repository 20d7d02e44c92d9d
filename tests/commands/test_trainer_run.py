import warnings

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from rlff_lightning.commands.trainer_run import _hush


def test_a_warning_that_metrics_are_deleted_is_heard_and_one_of_checkpoints_is_not() -> None:
    loss = (
        "Experiment logs directory warm exists and is not empty. Previous log files in this "
        "directory will be deleted when the new ones are saved!"
    )
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        _hush()
        rank_zero_warn(loss)
        rank_zero_warn("Checkpoint directory warm exists and is not empty.")
    assert [str(warning.message) for warning in heard] == [loss]
