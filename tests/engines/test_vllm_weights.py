import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.engines.vllm_weights import _fused, is_plain

COMPLETIONS = [[(7 * i + j) % 256 for j in range(9)] for i in range(12)]
TARGETS = {".q_proj": ".qkv_proj", ".k_proj": ".qkv_proj", ".v_proj": ".qkv_proj"}


def moved(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def test_weights_put_in_place_give_the_bits_of_vllms_own_reload(
    engine, model, prompts, monkeypatch
):
    assert engine._running().apply_model(is_plain) == [True]
    moved(model, 5)
    engine.load_weights(model.named_parameters())
    in_place = engine.logps(prompts, COMPLETIONS)
    engine.load_weights(moved(model, 6).named_parameters())
    other = engine.logps(prompts, COMPLETIONS)
    monkeypatch.setattr("rlff_lightning.engines.vllm_weights.is_plain", lambda _: False)
    engine.load_weights(model.named_parameters())
    assert engine.logps(prompts, COMPLETIONS) == other != in_place


def test_a_model_that_turns_weights_while_it_loads_them_is_left_to_vllm(engine, monkeypatch):
    from vllm.model_executor.models.llama4 import Llama4ForCausalLM

    def is_plain_if_it_turned(served):
        turn = Llama4ForCausalLM.permute_qk_weight_for_rotary
        monkeypatch.setattr(type(served), "permute_qk_weight_for_rotary", turn, raising=False)
        return is_plain(served)

    assert engine._running().apply_model(is_plain_if_it_turned) == [False]


def test_a_llama_with_a_head_of_its_own_and_an_odd_vocabulary_takes_new_weights(
    model_folder, build_folder, expected_logps, settings, prompts, tmp_path
):
    build_folder(tmp_path, 0)  # for its tokenizer
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=259,
    )
    llama = LlamaForCausalLM(config)
    llama.save_pretrained(tmp_path)
    engine = VLLMEngine(str(tmp_path), **settings)
    try:
        for seed in (1, 2):
            engine.load_weights(moved(llama, seed).named_parameters())
            scored = engine.logps(prompts, COMPLETIONS)
            for row, prompt, completion in zip(scored, prompts, COMPLETIONS, strict=True):
                torch.testing.assert_close(
                    torch.tensor(row), expected_logps(llama, prompt, completion), atol=1e-5, rtol=0
                )
    finally:
        engine.close()


def test_parts_are_joined_in_the_fused_layers_order_whenever_they_come():
    q, k, v = (torch.full((rows, 2), float(rows)) for rows in (4, 2, 1))
    norm = torch.ones(2)
    given = [("1.k_proj.weight", k), ("1.norm", norm), ("1.v_proj.weight", v)]
    found = dict(_fused([*given, ("1.q_proj.weight", q)], TARGETS))
    assert set(found) == {"1.norm", "1.qkv_proj.weight"}
    assert found["1.qkv_proj.weight"][:, 0].tolist() == [4, 4, 4, 4, 2, 2, 1]


def test_a_missing_part_of_a_fused_layer_is_named():
    with pytest.raises(ValueError, match=r"every part of a fused layer.*1\.qkv_proj\.bias"):
        list(_fused([("1.q_proj.bias", torch.ones(2))], TARGETS))
