import pytest

from rlff_lightning.engines.base import Sampling
from rlff_lightning.engines.limits import check_model_folder, check_requests, check_sampling
from rlff_lightning.errors import UserError


def test_a_prompt_may_fill_the_limit_exactly_and_no_more():
    check_requests("E", [[1] * 6, [1] * 7], [4, 3], 10)
    with pytest.raises(UserError, match=r"^E: prompt 1 must have at most 7 tokens.*got 8"):
        check_requests("E", [[1] * 6, [1] * 8], [4, 3], 10)


@pytest.mark.parametrize("temperature", [-1.0, 0.001, 2.1, float("nan")])
def test_a_temperature_that_vllm_would_move_or_refuse_is_refused(temperature):
    check_sampling("E", Sampling(temperature=0.0))
    check_sampling("E", Sampling(temperature=2.0))
    with pytest.raises(UserError, match="temperature must be 0"):
        check_sampling("E", Sampling(temperature=temperature))


def test_at_least_one_token_must_be_drawn():
    with pytest.raises(UserError, match="max_tokens must be at least 1, got 0"):
        check_sampling("E", Sampling(max_tokens=0))


def test_a_hub_name_is_let_through_and_a_missing_path_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    check_model_folder("E", "someone/model")
    with pytest.raises(UserError, match="no such model folder"):
        check_model_folder("E", str(tmp_path / "absent"))


def test_a_folder_must_hold_a_config_and_safetensors(tmp_path):
    with pytest.raises(UserError, match="found none in"):
        check_model_folder("E", str(tmp_path))
    (tmp_path / "config.json").touch()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"\*\.safetensors"):
        check_model_folder("E", str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    check_model_folder("E", str(tmp_path))
