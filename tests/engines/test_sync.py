import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen2ForCausalLM

from rlff_lightning.engines.sync import StaleEngineError, probe, sync_weights, verify_sync
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.engines.vllm import VLLMEngine

COMPLETIONS = [[(5 * i + j) % 256 for j in range(7)] for i in range(12)]


def move(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))


def test_all_weights_of_a_plain_model_arrive_at_every_sync(engine, model, prompts, tmp_path):
    for version in range(2):
        move(model, seed=version)
        with pytest.raises(StaleEngineError, match=r"above max_mismatch 0\.0001"):
            verify_sync(model, engine, prompts, COMPLETIONS)
        sync_weights(model, engine, version=version, folder=tmp_path)
        mismatch = verify_sync(model, engine, prompts, COMPLETIONS)
        assert 0 < mismatch.mean_abs <= mismatch.max_abs < 1e-5
    assert list(tmp_path.iterdir()) == []


def test_what_the_trainer_does_after_a_sync_does_not_reach_the_engine(engine, model, prompts):
    sync_weights(model, engine, version=0, folder=None)
    before = engine.logps(prompts, COMPLETIONS)
    move(model, seed=4)
    assert engine.logps(prompts, COMPLETIONS) == before


@pytest.mark.parametrize("kind", ["vllm", "transformers"])
def test_the_adapter_of_a_peft_model_is_served_and_old_versions_are_deleted(
    model_folder, settings, prompts, tmp_path, kind
):
    adapted = get_peft_model(
        Qwen2ForCausalLM.from_pretrained(model_folder),
        LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5),
    )
    engine = (
        VLLMEngine(str(model_folder), **settings, enable_lora=True)
        if kind == "vllm"
        else TransformersEngine(str(model_folder))
    )
    (tmp_path / "adapter-000009.partial").mkdir()  # as a killed run leaves it
    for version in (3, 4):
        move(adapted, seed=version)
        sync_weights(adapted, engine, version=version, folder=tmp_path)
        assert verify_sync(adapted, engine, prompts, COMPLETIONS).max_abs < 1e-5
        assert [path.name for path in tmp_path.iterdir()] == [f"adapter-{version:06d}"]
    assert adapted.training
    stored = load_file(tmp_path / "adapter-000004" / "adapter_model.safetensors")
    weights = dict(adapted.named_parameters())
    assert stored
    for name, tensor in stored.items():
        own = weights[name.replace("lora_A", "lora_A.default").replace("lora_B", "lora_B.default")]
        assert torch.equal(tensor, own)
    engine.close()


def test_one_adapter_of_several_is_served(model_folder, prompts, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"])
    adapted = get_peft_model(
        Qwen2ForCausalLM.from_pretrained(model_folder), config, adapter_name="policy"
    )
    adapted.add_adapter("reward", config)
    move(adapted, seed=0)
    engine = TransformersEngine(str(model_folder))
    sync_weights(adapted, engine, version=0, folder=tmp_path, adapter="policy")
    adapted.set_adapter("policy")
    verify_sync(adapted, engine, prompts, COMPLETIONS)
    names = {path.name for path in (tmp_path / "adapter-000000").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names


class _Uniform(nn.Module):
    """Gives every one of 4 tokens the same logit, or no number."""

    def __init__(self, logit):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, input_ids):
        logits = self.logit.expand(*input_ids.shape, 4)
        return type("Output", (), {"logits": logits})


class _Fixed:
    """An engine that answers the same to everything."""

    def logps_by_engine(self, prompts, completions):
        return {"engine 7": [[-1.0, -2.0], [-1.5]]}


PAIRS = ([[0], [1, 2]], [[1, 2], [3]])


def test_probe_averages_over_tokens_not_over_pairs():
    # Each of 4 tokens: log(1/4) = -1.38629. Gaps: 0.38629, 0.61371, 0.11371; mean 1.11371/3.
    mismatch = probe(_Uniform(0.0), _Fixed(), *PAIRS)
    assert mismatch.mean_abs == pytest.approx(0.371237, abs=1e-5)
    assert mismatch.max_abs == pytest.approx(0.613706, abs=1e-5)


def test_the_threshold_is_on_the_mean_and_the_message_has_all_numbers():
    verify_sync(_Uniform(0.0), _Fixed(), *PAIRS, max_mismatch=0.38)
    with pytest.raises(
        StaleEngineError, match=r"engine 7's .* 0\.371 on average and 0\.614 at most.*0\.37"
    ):
        verify_sync(_Uniform(0.0), _Fixed(), *PAIRS, max_mismatch=0.37)


def test_log_probabilities_that_are_no_numbers_stop_the_run():
    with pytest.raises(StaleEngineError, match="nan"):
        verify_sync(_Uniform(float("nan")), _Fixed(), *PAIRS, max_mismatch=1e9)


@pytest.mark.parametrize("is_adapted", [False, True])
def test_a_probe_makes_no_logits_but_those_it_reads(engine, model, prompts, is_adapted):
    made = []
    model.lm_head.register_forward_hook(lambda *call: made.append(call[2].shape))
    probed = get_peft_model(model, LoraConfig(r=4)) if is_adapted else model
    assert probe(probed, engine, prompts, COMPLETIONS).max_abs < 1e-5
    # Prompts of 5, 17, 33, 40, 64 and 80 tokens: seven places behind each, of the 87 in a row.
    assert made == [(12, 6 * 7, model.config.vocab_size)]


def test_a_probe_without_tokens_is_refused(engine, model):
    with pytest.raises(ValueError, match="must have a completion token"):
        probe(model, engine, [[1, 2]], [[]])
