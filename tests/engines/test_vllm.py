import json
import math
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, Qwen2ForCausalLM

from rlff_lightning.engines.base import Sampling
from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.engines.waiting import hosted_by
from rlff_lightning.errors import UserError

SEEDS = list(range(100, 112))
COMPLETIONS = [[(7 * i + j) % 256 for j in range(9)] for i in range(12)]


def move(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))


def write_adapter(folder, model_folder, seed, rank=4):
    base = Qwen2ForCausalLM.from_pretrained(model_folder)
    config = LoraConfig(r=rank, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = get_peft_model(base, config).eval()
    torch.manual_seed(seed)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return adapted


def largest_gap(scored, model, prompts, expected_logps):
    assert [len(row) for row in scored] == [9] * 12
    return max(
        (torch.tensor(row) - expected_logps(model, prompt, completion)).abs().max().item()
        for row, prompt, completion in zip(scored, prompts, COMPLETIONS, strict=True)
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampled_logps_are_the_models_after_temperature(
    engine, model, prompts, expected_logps, temperature
):
    sampling = Sampling(temperature=temperature, max_tokens=12)
    for prompt, completion in zip(prompts, engine.generate(prompts, sampling, SEEDS), strict=True):
        expected = expected_logps(model, prompt, list(completion.token_ids), temperature)
        torch.testing.assert_close(torch.tensor(completion.logps), expected, atol=1e-5, rtol=0)


def test_draws_follow_the_models_distribution(engine, model, prompts):
    prompt, num_draws, temperature = prompts[2], 2000, 0.7
    sampling = Sampling(temperature=temperature, max_tokens=1)
    drawn = engine.generate([prompt] * num_draws, sampling, range(num_draws))
    with torch.no_grad():
        logps = (model(torch.tensor([prompt])).logits[0, -1] / temperature).log_softmax(-1)
    # The drawn log-probabilities average to minus the entropy, within four standard errors.
    mean = (logps.exp() * logps).sum().item()
    variance = (logps.exp() * logps.square()).sum().item() - mean**2
    observed = sum(c.logps[0] for c in drawn) / num_draws
    assert abs(observed - mean) < 4 * math.sqrt(variance / num_draws)
    assert len({c.token_ids for c in drawn}) > 20


def test_greedy_takes_the_most_probable_token(engine, model, prompts):
    completions = engine.generate(prompts, Sampling(temperature=0.0, max_tokens=3), SEEDS)
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = list(prompt)
        for token in completion.token_ids:
            with torch.no_grad():
                assert token == model(torch.tensor([ids])).logits[0, -1].argmax().item()
            ids.append(token)


def test_a_draw_depends_on_its_seed_and_not_on_its_place(engine, prompts):
    sampling = Sampling(max_tokens=12)
    forward = engine.generate(prompts, sampling, SEEDS)
    backward = engine.generate(prompts[::-1], sampling, SEEDS[::-1])[::-1]
    assert [c.token_ids for c in forward] == [c.token_ids for c in backward]
    same_seed = engine.generate(prompts[:2], sampling, [5, 5])
    assert same_seed[0] == same_seed[1]
    assert forward[0].token_ids != forward[1].token_ids


def test_callers_at_once_get_what_each_would_get_alone(engine, prompts):
    long, short = Sampling(max_tokens=12), Sampling(max_tokens=3)
    alone = engine.generate(prompts, long, SEEDS), engine.generate(prompts[2:5], short, SEEDS[2:5])
    inner = []

    def ask_meanwhile(work):
        with hosted_by(SimpleNamespace(wait=_drive)):
            inner.append(engine.generate(prompts[2:5], short, SEEDS[2:5]))
        assert not work.is_done
        _drive(work)

    with hosted_by(SimpleNamespace(wait=ask_meanwhile)):
        outer = engine.generate(prompts, long, SEEDS)
    assert (outer, *inner) == alone


def _drive(work):
    while not work.is_done:
        work.advance()


def test_a_caller_who_gives_up_takes_its_requests_along(engine, prompts):
    sampling = Sampling(max_tokens=12)
    expected = engine.generate(prompts, sampling, SEEDS)

    def give_up(work):
        engine._queue.advance()
        raise KeyboardInterrupt

    with hosted_by(SimpleNamespace(wait=give_up)), pytest.raises(KeyboardInterrupt):
        engine.generate(prompts, Sampling(max_tokens=5), SEEDS)
    assert not engine._running().llm_engine.has_unfinished_requests()
    assert engine.generate(prompts, sampling, SEEDS) == expected


def test_the_same_call_gives_the_same_bits_whatever_ran_before(engine, model, prompts):
    sampling = Sampling(max_tokens=12)
    first = engine.generate(prompts, sampling, SEEDS)
    engine.logps(prompts, COMPLETIONS)
    engine.generate(prompts[3:], Sampling(max_tokens=3), SEEDS[3:])
    assert engine.generate(prompts, sampling, SEEDS) == first
    stored = [(name, weight.detach().clone()) for name, weight in model.named_parameters()]
    move(model, seed=1)
    engine.load_weights(model.named_parameters())
    assert engine.generate(prompts, sampling, SEEDS) != first
    engine.load_weights(stored)
    assert engine.generate(prompts, sampling, SEEDS) == first


def test_a_fresh_process_samples_the_same_bits_and_keeps_the_trainers_state(
    engine, model_folder, settings, prompts
):
    here = engine.generate(prompts, Sampling(max_tokens=12), SEEDS)
    request = {
        "folder": str(model_folder),
        "settings": settings,
        "prompts": prompts,
        "sampling": {"max_tokens": 12},
        "seeds": SEEDS,
    }
    fresh = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fresh_process.py"))],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(fresh.stdout.rpartition("RESULT")[2])
    assert [tuple(ids) for ids in result["tokens"]] == [c.token_ids for c in here]
    assert [tuple(logps) for logps in result["logps"]] == [c.logps for c in here]
    assert result["changed"] == []
    assert "before the strategy set up torch.distributed" in result["refusal"]


def test_sampling_leaves_the_trainers_random_state(engine, prompts):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    engine.generate(prompts, Sampling(max_tokens=2), SEEDS)
    engine.logps(prompts, COMPLETIONS)
    assert torch.equal(torch.rand(3), expected)


def test_text_keeps_think_and_drops_only_the_end_token(engine, model_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    draw = random.Random(0)
    many = [[draw.randrange(256) for _ in range(4)] for _ in range(150)]
    completions = engine.generate(many, Sampling(temperature=2.0, max_tokens=30), range(150))
    think, end = tokenizer.convert_tokens_to_ids("<think>"), tokenizer.eos_token_id
    for completion in completions:
        assert completion.is_finished == (completion.token_ids[-1] == end)
        assert end not in completion.token_ids[:-1]
        assert completion.is_finished or len(completion.token_ids) == 30
        assert "<|im_end|>" not in completion.text
        assert completion.text.count("<think>") == completion.token_ids.count(think)
        assert len(completion.logps) == len(completion.token_ids)
    assert any("<think>" in c.text for c in completions)
    assert {c.is_finished for c in completions} == {True, False}


def test_logps_are_the_models_after_each_of_two_syncs(engine, model, prompts, expected_logps):
    before = engine.logps(prompts, COMPLETIONS)
    assert largest_gap(before, model, prompts, expected_logps) < 1e-5
    for seed in (1, 2):
        move(model, seed)
        stale = engine.logps(prompts, COMPLETIONS)
        assert largest_gap(stale, model, prompts, expected_logps) > 0.1
        engine.load_weights(model.named_parameters())
        fresh = engine.logps(prompts, COMPLETIONS)
        assert largest_gap(fresh, model, prompts, expected_logps) < 1e-5


def test_options_of_few_tokens_are_scored_as_the_model_does(engine, model, prompts, expected_logps):
    options = [[65], [66], [66, 67], [68, 69, 70, 71], [66, 67, 70]]
    rows = [prompt for prompt in prompts for _ in options]
    scored = engine.logps(rows, options * len(prompts))
    for prompt, option, logps in zip(rows, options * len(prompts), scored, strict=True):
        expected = expected_logps(model, prompt, option)
        torch.testing.assert_close(torch.tensor(logps), expected, atol=1e-5, rtol=0)


def test_more_options_than_one_request_takes_are_scored_too(engine, model, prompts, expected_logps):
    options = [[token, 7] for token in range(200)]
    scored = engine.logps(prompts[:1] * 200, options)
    for option, logps in zip(options, scored, strict=True):
        expected = expected_logps(model, prompts[0], option)
        torch.testing.assert_close(torch.tensor(logps), expected, atol=1e-5, rtol=0)


def test_kept_prefixes_give_the_same_bits_turn_after_turn(engine, model_folder, settings, prompts):
    torch.set_num_threads(1)
    keeping = VLLMEngine(str(model_folder), **settings, keep_prefixes=True)
    said = prompts
    for turn in range(3):
        sampling = Sampling(max_tokens=40 - turn)
        expected = engine.generate(said, sampling, SEEDS)
        drawn = keeping.generate(said[::-1], sampling, SEEDS[::-1])[::-1]
        assert drawn == expected
        said = [
            [*prompt, *completion.token_ids, turn, 7]
            for prompt, completion in zip(said, drawn, strict=True)
        ]
    keeping.close()


def test_tokens_are_the_same_where_nobody_asks_for_log_probabilities(engine, prompts):
    asked, plain = (
        engine.generate(prompts, Sampling(max_tokens=12, with_logps=flag), SEEDS)
        for flag in (True, False)
    )
    assert [c.token_ids for c in plain] == [c.token_ids for c in asked]
    assert [c.logps for c in plain] == [()] * len(prompts)


def test_kept_prefixes_are_dropped_when_weights_change(
    model_folder, model, settings, prompts, expected_logps
):
    keeping = VLLMEngine(str(model_folder), **settings, keep_prefixes=True)
    keeping.generate(prompts, Sampling(max_tokens=2), SEEDS)
    move(model, seed=6)
    keeping.load_weights(model.named_parameters())
    drawn = keeping.generate(prompts, Sampling(max_tokens=4), SEEDS)
    for prompt, completion in zip(prompts, drawn, strict=True):
        expected = expected_logps(model, prompt, list(completion.token_ids))
        torch.testing.assert_close(torch.tensor(completion.logps), expected, atol=1e-5, rtol=0)
    keeping.close()


def test_prompts_beyond_the_tokens_of_one_step_are_sampled_alike(
    engine, model_folder, settings, prompts
):
    assert sum(map(len, prompts)) > 256
    narrow = VLLMEngine(str(model_folder), **settings, max_num_batched_tokens=256)
    sampling = Sampling(max_tokens=12)
    expected = engine.generate(prompts, sampling, SEEDS)
    drawn = narrow.generate(prompts, sampling, SEEDS)
    assert [c.token_ids for c in drawn] == [c.token_ids for c in expected]
    narrow.close()


def test_engines_side_by_side_do_not_mix_and_give_their_memory_back(
    engine, build_folder, tmp_path, settings, prompts
):
    def resident_mib():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    sampling = Sampling(max_tokens=6)
    first = engine.generate(prompts, sampling, SEEDS)
    before = resident_mib()
    other = VLLMEngine(str(build_folder(tmp_path, 1)), **{**settings, "kv_cache_gib": 0.125})
    second = other.generate(prompts, sampling, SEEDS)
    assert second != first
    assert engine.generate(prompts, sampling, SEEDS) == first
    assert other.generate(prompts, sampling, SEEDS) == second
    assert resident_mib() - before > 100
    other.close()
    assert resident_mib() - before < 28
    assert engine.generate(prompts, sampling, SEEDS) == first
    with pytest.raises(RuntimeError, match="closed"):
        other.generate(prompts, sampling, SEEDS)


def test_each_adapter_version_is_served_and_no_version_twice(
    model_folder, settings, tmp_path, prompts, expected_logps
):
    engine = VLLMEngine(str(model_folder), **settings, enable_lora=True, max_lora_rank=8)
    base = Qwen2ForCausalLM.from_pretrained(model_folder).eval()
    scored = engine.logps(prompts, COMPLETIONS)
    assert largest_gap(scored, base, prompts, expected_logps) < 1e-5
    for version in (0, 1):
        adapted = write_adapter(tmp_path / str(version), model_folder, seed=version)
        engine.load_adapter(tmp_path / str(version), version)
        scored = engine.logps(prompts, COMPLETIONS)
        assert largest_gap(scored, base, prompts, expected_logps) > 0.1
        assert largest_gap(scored, adapted, prompts, expected_logps) < 1e-5
        [drawn] = engine.generate(prompts[:1], Sampling(max_tokens=8), [0])
        expected = expected_logps(adapted, prompts[0], list(drawn.token_ids))
        torch.testing.assert_close(torch.tensor(drawn.logps), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="version must be above 1, got 1"):
        engine.load_adapter(tmp_path / "1", 1)
    write_adapter(tmp_path / "wide", model_folder, seed=0, rank=16)
    with pytest.raises(UserError, match="max_lora_rank 8, got 16"):
        engine.load_adapter(tmp_path / "wide", 2)
    assert isinstance(adapted, PeftModel)
    engine.close()


def test_an_adapter_needs_an_engine_that_serves_adapters(engine, tmp_path):
    with pytest.raises(UserError, match="enable_lora must be true"):
        engine.load_adapter(tmp_path, 0)


def test_a_prompt_over_the_limit_is_refused_with_both_lengths(engine):
    with pytest.raises(UserError, match=r"prompt 1 must have at most 246 tokens.* got 247"):
        engine.generate([[1], [1] * 247], Sampling(max_tokens=10), [0, 1])
    assert engine.generate([[1] * 246], Sampling(max_tokens=10), [0])[0].token_ids
    with pytest.raises(UserError, match=r"prompt 0 must have a token"):
        engine.generate([[]], Sampling(), [0])
    assert engine.generate([], Sampling(), []) == []


def test_a_setting_that_vllm_cannot_serve_is_one_line(model_folder, settings):
    engine = VLLMEngine(str(model_folder), **{**settings, "max_model_len": 9999})
    with pytest.raises(UserError, match="9999") as caught:
        engine.logps([[1]], [[2]])
    assert "\n" not in str(caught.value)


def test_on_a_cpu_an_engine_that_should_sleep_is_refused(model_folder, settings):
    engine = VLLMEngine(str(model_folder), **settings, enable_sleep=True)
    with pytest.raises(UserError, match="enable_sleep must be false on a CPU"):
        engine.logps([[1]], [[2]])


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=rf"\*\.safetensors, found none in {tmp_path}"):
        VLLMEngine(str(tmp_path)).generate([[1]], Sampling(max_tokens=1), [0])


def test_without_vllm_the_extra_to_install_is_named(model_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it fails as if not installed
    with pytest.raises(UserError, match=r"pip install 'rlff-lightning\[cuda\]'"):
        VLLMEngine(str(model_folder)).generate([[1]], Sampling(max_tokens=1), [0])
