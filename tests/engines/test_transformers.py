import math

import pytest
import torch

from rlff_lightning.engines.base import Sampling
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.errors import UserError

SEEDS = list(range(12))


@pytest.fixture
def plain(model_folder):
    return TransformersEngine(str(model_folder), max_model_len=256, max_num_seqs=5)


def test_sampled_logps_are_the_models_in_batches_of_unequal_prompts(
    plain, model, prompts, expected_logps
):
    sampling = Sampling(temperature=0.5, max_tokens=10)
    for prompt, drawn in zip(prompts, plain.generate(prompts, sampling, SEEDS), strict=True):
        expected = expected_logps(model, prompt, list(drawn.token_ids), 0.5)
        torch.testing.assert_close(torch.tensor(drawn.logps), expected, atol=1e-5, rtol=0)


def test_greedy_is_what_transformers_generates(plain, model, prompts):
    drawn = plain.generate(prompts, Sampling(temperature=0.0, max_tokens=8), SEEDS)
    for prompt, completion in zip(prompts, drawn, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8
        )
        assert list(completion.token_ids) == out[0, len(prompt) :].tolist()


def test_a_draw_depends_on_its_seed_and_not_on_its_neighbours(plain, prompts):
    sampling = Sampling(max_tokens=10, with_logps=False)
    together = plain.generate(prompts, sampling, SEEDS)
    assert {c.logps for c in together} == {()}
    alone = [plain.generate([p], sampling, [s])[0] for p, s in zip(prompts, SEEDS, strict=True)]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert together[0].token_ids != together[1].token_ids


def test_draws_follow_the_models_distribution(plain, model, prompts):
    prompt, num_draws = prompts[2], 1000
    plain.max_num_seqs = num_draws
    drawn = plain.generate([prompt] * num_draws, Sampling(max_tokens=1), range(num_draws))
    with torch.no_grad():
        logps = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    # The drawn log-probabilities average to minus the entropy, within four standard errors.
    mean = (logps.exp() * logps).sum().item()
    variance = (logps.exp() * logps.square()).sum().item() - mean**2
    observed = sum(c.logps[0] for c in drawn) / num_draws
    assert abs(observed - mean) < 4 * math.sqrt(variance / num_draws)


def test_both_engines_score_alike(plain, engine, prompts):
    completions = [[3, 1, 4, 1, 5]] * len(prompts)
    for ours, theirs in zip(
        plain.logps(prompts, completions), engine.logps(prompts, completions), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_loaded_weights_are_copies_and_must_be_complete(plain, model, prompts):
    completions = [[3, 1, 4]] * len(prompts)
    before = plain.logps(prompts, completions)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.3)
    plain.load_weights(model.named_parameters())
    loaded = plain.logps(prompts, completions)
    assert loaded != before
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    assert plain.logps(prompts, completions) == loaded
    with pytest.raises(ValueError, match=r"missing \['model\.norm\.weight'\]"):
        plain.load_weights((n, w) for n, w in model.named_parameters() if n != "model.norm.weight")


def test_a_completion_ends_at_the_end_token_and_its_text_before(plain, prompts):
    sampling = Sampling(temperature=2.0, max_tokens=120)
    drawn = plain.generate(prompts * 2, sampling, range(24))
    end = plain._tokenizer.eos_token_id
    for completion in drawn:
        assert completion.is_finished == (completion.token_ids[-1] == end)
        assert end not in completion.token_ids[:-1]
        assert "<|im_end|>" not in completion.text
    assert {c.is_finished for c in drawn} == {True, False}


def test_what_does_not_fit_is_refused(plain, tmp_path):
    with pytest.raises(UserError, match="at most 250 tokens"):
        plain.generate([[1] * 251], Sampling(max_tokens=6), [0])
    with pytest.raises(UserError, match="no such model folder"):
        TransformersEngine(str(tmp_path / "none")).logps([[1]], [[1]])
    plain.close()
    with pytest.raises(RuntimeError, match="closed"):
        plain.logps([[1]], [[1]])
