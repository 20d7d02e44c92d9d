import pytest
import torch

from rlff_lightning.errors import UserError
from rlff_lightning.models.pocket import build_pocket_model


def test_linear_layers_start_at_one_over_root_of_their_inputs():
    model = build_pocket_model(200, eos_id=0, pad_id=1, hidden_size=64, num_layers=1)
    layer = model.model.layers[0]
    # 64 inputs: 1/8; the way down from 4 * 64 = 256: 1/16.
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx(1 / 16, rel=0.05)
    assert model.lm_head.weight.std().item() == pytest.approx(1 / 8, rel=0.05)


@pytest.mark.parametrize("tie", [True, False])
def test_output_head_is_the_embedding_only_if_tied(tie: bool):
    model = build_pocket_model(50, eos_id=0, pad_id=1, hidden_size=32, num_layers=1, tie=tie)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tie


def test_weights_depend_on_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, again, other = (
        build_pocket_model(50, eos_id=0, pad_id=1, hidden_size=32, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_generation_ends_at_the_given_tokens():
    config = build_pocket_model(50, eos_id=3, pad_id=4, hidden_size=32).generation_config
    assert (config.eos_token_id, config.pad_token_id) == (3, 4)


@pytest.mark.parametrize(
    ("sizes", "word"),
    [
        ({"eos_id": 50, "pad_id": 0}, "eos_id"),
        ({"eos_id": 0, "pad_id": 0, "hidden_size": 36, "num_heads": 4}, "num_heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], word: str):
    with pytest.raises(UserError, match=word):
        build_pocket_model(50, **sizes)
